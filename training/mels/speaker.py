"""Who speaks the samples of a run of SpeechT5."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dtm_hf.frontend.feature_extraction_f5 import F5FeatureExtractor
from dtm_hf.training.speech.prompts import SpokenPrompt
from dtm_hf.training.speech.speaker import picture_of_mels

if TYPE_CHECKING:
    from dtm_hf.pipelines.pipeline_speecht5 import SpeechT5Pipeline

# A network that has not learnt to end goes on for as long as it may.
_MAX_RATIO = 12.0


class SpeechT5Speaker:
    """
    See [`~dtm_hf.training.speech.speaker.Speaker`].

    Args:
        pipeline ([`SpeechT5Pipeline`]): around the network that is trained, on its device.
        feature_extractor ([`F5FeatureExtractor`]): for pictures.
    """

    needs_reference = False

    def __init__(self, pipeline: "SpeechT5Pipeline", feature_extractor: F5FeatureExtractor):
        self.pipeline, self._extractor = pipeline, feature_extractor
        pipeline.set_progress_bar_config(disable=True)
        # The trainer moves the network alone.
        pipeline.vocoder.to(self.device)

    @property
    def sampling_rate(self) -> int:
        return self.pipeline.sampling_rate

    reference_rate = sampling_rate

    @property
    def device(self) -> torch.device:
        return self.pipeline.model.device

    def speak(self, prompt: SpokenPrompt, generator: torch.Generator, briefly: bool = False) -> np.ndarray:
        ratio = 1.0 if briefly else _MAX_RATIO
        return self.pipeline(prompt.text, prompt.speaker or None, generator=generator, max_ratio=ratio).audios[0]

    def save_picture(self, waveforms: Sequence[np.ndarray], path: Path, titles: Sequence[str]) -> None:
        picture_of_mels(self._extractor, waveforms, path, titles)

    def settings(self) -> dict[str, Any]:
        return {"threshold": 0.5, "max_ratio": _MAX_RATIO}
