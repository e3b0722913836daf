"""A call of a pipeline whose speech is heard while it is made."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from dtm_hf.pipelines.rows import MAX_FRAMES, SpeechRow, check_inputs, divide
from dtm_hf.pipelines.streaming import check_one_text, fade_together, one_by_one


class StreamMixin:
    """Of a pipeline that has `encode_reference`, `sample` and `decode`."""

    def stream(
        self,
        text: str,
        reference_audio: Any,
        reference_text: str,
        speed: float = 1.0,
        generator: torch.Generator | None = None,
        **sampling: Any,
    ) -> Iterator[np.ndarray]:
        """
        Speak while it is heard: float32 samples `(T_i,)`, sentence by sentence, the first chunk short. Together they
        are the sentences cross-faded. Memory does not grow with the text.

        Args:
            text (`str`), reference_audio, reference_text (`str`), speed (`float`), generator (`torch.Generator`,
                *optional*): as of a call; one text alone.
            sampling: as of [`~DTMPipeline.sample`].

        Raises:
            TypeError, ValueError, FileNotFoundError: for what cannot be spoken, at once.
        """
        rows = self.stream_rows(text, reference_audio, reference_text, speed, generator)

        def waves() -> Iterator[np.ndarray]:
            for row in rows:
                yield self.decode([row], self.sample([row], generator=generator, **sampling))[0]
            self.maybe_free_model_hooks()

        return fade_together(waves(), self.vocoder.sampling_rate)

    def stream_rows(
        self,
        text: str,
        reference_audio: Any,
        reference_text: str,
        speed: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Iterator[SpeechRow]:
        """
        The rows of a stream, to be sampled one by one as they come. Arguments, and what is refused at once, as of
        [`~DTMPipeline.stream`].
        """
        check_one_text(text)
        inputs = check_inputs(self.tokenizer, text, reference_audio, reference_text, speed, None, self.text_normalizer)
        reference = self.encode_reference(reference_audio, inputs.reference_texts[0])
        frame_rate = self.feature_extractor.sampling_rate / self.feature_extractor.hop_length
        # A backbone of another kind need not say how much it runs.
        seconds = getattr(self.backbone.config, "max_seconds", None)
        frames = getattr(self.backbone, "max_frames", MAX_FRAMES)
        return (
            row
            for part in one_by_one(inputs, reference, self._timing, speed, seconds)
            for row in divide(
                part, [reference], self.tokenizer, self._timing, speed, frame_rate, generator, seconds, frames
            )
        )
