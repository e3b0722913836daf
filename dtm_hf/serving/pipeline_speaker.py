"""A pipeline as that which a [`Batcher`] asks to speak."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from dtm_hf.pipelines import batching
from dtm_hf.pipelines.pipeline_dtm import DTMPipeline
from dtm_hf.pipelines.rows import SpeechRow


class PipelineSpeaker:
    """
    Speaks rows of any requests with a [`DTMPipeline`]: each as it would speak alone, on a CPU to the bit.

    Args:
        pipeline ([`DTMPipeline`]): shared by all threads; its progress bar is turned off.
    """

    def __init__(self, pipeline: DTMPipeline):
        pipeline.set_progress_bar_config(disable=True)
        self.pipeline = pipeline

    @property
    def sampling_rate(self) -> int:
        """Samples a second, in Hz."""
        return self.pipeline.vocoder.sampling_rate

    def noise(self, seed: int) -> torch.Generator:
        """The generator of one text: on the CPU, so that a seed says the same everywhere."""
        return torch.Generator().manual_seed(seed)

    def prepare(
        self,
        text: str,
        reference_audio: Any,
        reference_text: str,
        speed: float = 1.0,
        duration_s: float | None = None,
        generator: torch.Generator | None = None,
    ) -> list[SpeechRow]:
        """What there is to be said; arguments as of [`~DTMPipeline.prepare`]."""
        return self.pipeline.prepare(text, reference_audio, reference_text, speed, duration_s, generator)

    def stream_rows(
        self,
        text: str,
        reference_audio: Any,
        reference_text: str,
        speed: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Iterator[SpeechRow]:
        """The rows of a stream; arguments as of [`~DTMPipeline.stream`]."""
        return self.pipeline.stream_rows(text, reference_audio, reference_text, speed, generator)

    def noise_sources(self, rows: Sequence[SpeechRow], generator: torch.Generator) -> list[torch.Generator]:
        """What each row of one text draws its noise from."""
        return batching.noise_sources(rows, generator)

    def sample(
        self, rows: list[SpeechRow], *, generators: Sequence[torch.Generator], **sampling: Any
    ) -> list[torch.Tensor]:
        """Log-mels `(N_i, M)`; arguments as of [`~DTMPipeline.sample`], with a generator for each row."""
        # As texts of one call, each of one chunk: what a row draws from is chosen already.
        alone = [replace(row, text_index=index, chunk_index=0) for index, row in enumerate(rows)]
        return self.pipeline.sample(alone, generator=list(generators), **sampling)

    def vocode(self, row: SpeechRow, mel: torch.Tensor) -> np.ndarray:
        """The waveform `(T,)` of a row, as loud as its recording."""
        return self.pipeline.decode([row], [mel])[0]

    def passes(
        self,
        num_inference_steps: int | None = None,
        num_head_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_end: float = 1.0,
    ) -> int:
        """Backbone passes of one row, both branches of guidance counted."""
        scheduler, guidance = self.pipeline.choose(num_inference_steps, num_head_steps, guidance_scale, guidance_end)
        return sum(2 if guidance.branch(t) == "both" else 1 for t in scheduler.timesteps.tolist())

    def log_mel(self, audio: np.ndarray) -> np.ndarray:
        """The log-mel `(N, M)` of a waveform `(T,)`."""
        extractor = self.pipeline.feature_extractor
        return extractor.log_mel(torch.from_numpy(audio)[None])[0].float().cpu().numpy()
