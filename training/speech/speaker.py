"""Who speaks the samples of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from dtm_hf.pictures import save_mel_picture
from dtm_hf.training.speech.prompts import SpokenPrompt

if TYPE_CHECKING:
    from dtm_hf.pipelines.pipeline_dtm import DTMPipeline


class Speaker(Protocol):
    """
    What [`SpeechSamples`] needs of a system: it speaks with the weights that are trained, as they are at each call.

    Attributes:
        sampling_rate (`int`): of what it says, in Hz.
        reference_rate (`int`): of the recordings that it speaks like, in Hz.
        needs_reference (`bool`): whether it needs one of each prompt's speaker.
        device (`torch.device`): where it computes.
    """

    sampling_rate: int
    reference_rate: int
    needs_reference: bool
    device: torch.device

    def speak(self, prompt: SpokenPrompt, generator: torch.Generator, briefly: bool = False) -> np.ndarray:
        """
        A prompt as a waveform `(T,)`; `briefly` in as few steps as it can.

        Raises:
            ValueError: for a text, or a recording, that it cannot speak.
        """

    def save_picture(self, waveforms: Sequence[np.ndarray], path: Path, titles: Sequence[str]) -> None:
        """Save a picture of waveforms of `sampling_rate`, one below the other."""

    def settings(self) -> dict[str, Any]:
        """What JSON is to say of how it speaks: steps, grid, guidance."""


def picture_of_mels(extractor, waveforms: Sequence[np.ndarray], path: Path, titles: Sequence[str]) -> None:
    """Save the mels of waveforms `(T_i,)`, as an [`F5FeatureExtractor`] sees them, one below the other."""
    save_mel_picture(
        [extractor.log_mel(torch.from_numpy(samples)[None])[0] for samples in waveforms],
        path,
        titles=titles,
        sampling_rate=extractor.sampling_rate,
        hop_length=extractor.hop_length,
    )


class PipelineSpeaker:
    """
    Args:
        pipeline ([`DTMPipeline`]): around the networks that are trained, on their device.
    """

    needs_reference = True

    def __init__(self, pipeline: "DTMPipeline"):
        self.pipeline = pipeline
        pipeline.set_progress_bar_config(disable=True)
        # The trainer moves the networks alone.
        pipeline.vocoder.to(self.device)

    @property
    def sampling_rate(self) -> int:
        return self.pipeline.vocoder.sampling_rate

    @property
    def reference_rate(self) -> int:
        return self.pipeline.feature_extractor.sampling_rate

    @property
    def device(self) -> torch.device:
        return self.pipeline.backbone.device

    def speak(self, prompt: SpokenPrompt, generator: torch.Generator, briefly: bool = False) -> np.ndarray:
        steps = min(self.pipeline.backbone.config.step_counts or [1]) if briefly else None
        voice = (prompt.reference, self.reference_rate)
        output = self.pipeline(
            prompt.text, voice, prompt.reference_text, num_inference_steps=steps, generator=generator
        )
        return output.audios[0]

    def save_picture(self, waveforms: Sequence[np.ndarray], path: Path, titles: Sequence[str]) -> None:
        picture_of_mels(self.pipeline.feature_extractor, waveforms, path, titles)

    def settings(self) -> dict[str, Any]:
        from dtm_hf.pipelines.guidance import DEFAULT_GUIDANCE_SCALE

        scheduler, head = self.pipeline.scheduler, self.pipeline.head
        baked = None if head is None or scheduler.num_head_steps == 0 else head.config.guidance_scale
        if self.pipeline.backbone.config.step_counts is not None:
            # A student runs the conditional branch alone.
            baked = 1.0
        return {
            "num_inference_steps": scheduler.num_inference_steps,
            "num_head_steps": scheduler.num_head_steps,
            "head_solver": scheduler.config.head_solver,
            "time_grid": scheduler.config.time_grid,
            "guidance_scale": DEFAULT_GUIDANCE_SCALE if baked is None else baked,
        }
