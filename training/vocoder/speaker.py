"""Who speaks the samples of a vocoder's run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dtm_hf.frontend.feature_extraction_f5 import F5FeatureExtractor
from dtm_hf.training.speech.prompts import SpokenPrompt
from dtm_hf.training.speech.speaker import picture_of_mels
from dtm_hf.vocoder.vocoder_vocos import VocosVocoder


class VocoderSpeaker:
    """
    Says a recording again, by its log-mel; see [`~dtm_hf.training.speech.speaker.Speaker`].

    Args:
        vocoder ([`VocosVocoder`]): that is trained, on its device.
        extractor ([`F5FeatureExtractor`]): makes its log-mels.
    """

    needs_reference = False

    def __init__(self, vocoder: VocosVocoder, extractor: F5FeatureExtractor):
        self.vocoder, self.extractor = vocoder, extractor

    @property
    def sampling_rate(self) -> int:
        return self.vocoder.sampling_rate

    reference_rate = sampling_rate

    @property
    def device(self) -> torch.device:
        return self.vocoder.device

    def speak(self, prompt: SpokenPrompt, generator: torch.Generator, briefly: bool = False) -> np.ndarray:
        if prompt.truth is None:
            raise ValueError(f"a vocoder says recordings again, and no validation row says {prompt.text!r}.")
        with torch.no_grad():
            mel = self.extractor.log_mel(torch.from_numpy(prompt.truth)[None].to(self.device))
            return self.vocoder(mel)[0].cpu().numpy()

    def save_picture(self, waveforms: Sequence[np.ndarray], path: Path, titles: Sequence[str]) -> None:
        picture_of_mels(self.extractor, waveforms, path, titles)

    def settings(self) -> dict[str, Any]:
        return {"num_layers": self.vocoder.config.num_layers}
