"""Who speaks the samples of a run on codes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dtm_hf.codec.mimi import decode_codes, encode_recordings
from dtm_hf.frontend.feature_extraction_f5 import F5FeatureExtractor
from dtm_hf.training.speech.prompts import SpokenPrompt
from dtm_hf.training.speech.speaker import picture_of_mels

if TYPE_CHECKING:
    from transformers import MimiModel

    from dtm_hf.pipelines.pipeline_trm import TRMPipeline


class _CodeSpeaker:
    """What the two have in common; see [`~dtm_hf.training.speech.speaker.Speaker`]."""

    needs_reference = False

    def __init__(self, codec: "MimiModel"):
        self.codec, self._extractor = codec, F5FeatureExtractor()

    @property
    def sampling_rate(self) -> int:
        return self.codec.config.sampling_rate

    reference_rate = sampling_rate

    @property
    def device(self) -> torch.device:
        return self.codec.device

    def save_picture(self, waveforms: Sequence[np.ndarray], path: Path, titles: Sequence[str]) -> None:
        picture_of_mels(self._extractor, waveforms, path, titles)


class TRMSpeaker(_CodeSpeaker):
    """
    Args:
        pipeline ([`TRMPipeline`]): around the networks that are trained, on their device.
        sampling (`dict`): temperature, top_k and top_p.
    """

    def __init__(self, pipeline: "TRMPipeline", sampling: dict[str, Any]):
        super().__init__(pipeline.codec)
        self.pipeline, self.sampling = pipeline, sampling
        pipeline.set_progress_bar_config(disable=True)

    def speak(self, prompt: SpokenPrompt, generator: torch.Generator, briefly: bool = False) -> np.ndarray:
        steps = 1 if briefly else None
        output = self.pipeline(
            prompt.text, prompt.speaker, num_inference_steps=steps, generator=generator, **self.sampling
        )
        return output.audios[0]

    def settings(self) -> dict[str, Any]:
        steps = self.pipeline.scheduler.config.num_inference_steps
        return {"num_inference_steps": steps, "guidance_scale": 1.0, **self.sampling}


class CodecSpeaker(_CodeSpeaker):
    """
    Says a recording again, by its codes.

    Args:
        codec (`MimiModel`): that is trained, on its device.
    """

    def speak(self, prompt: SpokenPrompt, generator: torch.Generator, briefly: bool = False) -> np.ndarray:
        if prompt.truth is None:
            raise ValueError(f"a codec says recordings again, and no validation row says {prompt.text!r}.")
        with torch.no_grad():
            codes = encode_recordings(self.codec, [torch.from_numpy(prompt.truth)])
            return decode_codes(self.codec, codes)[0].cpu().numpy()[: len(prompt.truth)]

    def settings(self) -> dict[str, Any]:
        return {"num_codebooks": self.codec.config.num_quantizers}
