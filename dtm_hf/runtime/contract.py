"""What a [`Batcher`] needs of that which speaks: a port without torch, or a pipeline."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from dtm_hf.pipelines.rows import SpeechRow


class RowSpeaker(Protocol):
    """Speaks rows of any requests together. Its methods may be called by several threads, but for `sample`."""

    sampling_rate: int
    """Samples a second, in Hz."""

    def noise(self, seed: int) -> Any:
        """The generator of one text: of its lengths, where they are drawn, and of its noise."""
        ...

    def prepare(
        self,
        text: str,
        reference_audio: Any,
        reference_text: str,
        speed: float = 1.0,
        duration_s: float | None = None,
        generator: Any = None,
    ) -> list[SpeechRow]:
        """
        What there is to be said, cut into rows; refuses what cannot be. The `reference` of a row may be given in the
        place of the recording that it was read from.
        """
        ...

    def stream_rows(
        self, text: str, reference_audio: Any, reference_text: str, speed: float = 1.0, generator: Any = None
    ) -> Iterator[SpeechRow]:
        """
        The rows of a stream, sentence by sentence; refuses at once what cannot be said. A row must have been sampled
        before the next is asked for: the two draw from one generator.
        """
        ...

    def noise_sources(self, rows: Sequence[SpeechRow], generator: Any) -> list[Any]:
        """What each row of one text draws its noise from."""
        ...

    def sample(self, rows: list[SpeechRow], *, generators: Sequence[Any], **sampling: Any) -> list[Any]:
        """Log-mels `(N_i, M)` of the rows, without their prompts; `generators` has one a row."""
        ...

    def vocode(self, row: SpeechRow, mel: Any) -> np.ndarray:
        """The waveform `(T,)` of a row, as loud as its recording."""
        ...

    def passes(self, **sampling: Any) -> int:
        """Backbone passes of one row, both branches of guidance counted; refuses what cannot be sampled."""
        ...

    def log_mel(self, audio: np.ndarray) -> np.ndarray:
        """The log-mel `(N, M)` of a waveform `(T,)`, for a picture of it."""
        ...
