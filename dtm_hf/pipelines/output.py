"""What a call of a pipeline returns."""

from dataclasses import dataclass

import numpy as np
import torch
from diffusers.utils import BaseOutput

# The mel is the latent.
MEL_OUTPUT_TYPES = ("mel", "latent")
OUTPUT_TYPES = ("np", "pt", *MEL_OUTPUT_TYPES)
# Of a codec the codes are the latent.
CODE_OUTPUT_TYPES = ("codes", "latent")


@dataclass
class DTMPipelineOutput(BaseOutput):
    """
    Output of [`DTMPipeline`].

    Args:
        audios (`list` of `np.ndarray` or `torch.Tensor`):
            One entry a text: float32 samples of shape `(T,)`, or with `output_type="mel"` or `"latent"` log-mels of
            shape `(N, M)`.
        sampling_rate (`int`):
            Samples a second, in Hz.
        unspoken (`list[list[str]]`, *optional*):
            One entry a text: its characters that the vocabulary lacks, which were left out.
    """

    audios: list[np.ndarray] | list[torch.Tensor]
    sampling_rate: int
    unspoken: list[list[str]] | None = None


@dataclass
class TRMPipelineOutput(DTMPipelineOutput):
    """
    Output of [`TRMPipeline`]; fields as of [`DTMPipelineOutput`], but with `output_type="codes"` or `"latent"` the
    `audios` are codes of shape `(K, F)`, or latents of shape `(M, F)` of a model that speaks in these.
    """


@dataclass
class SpeechT5PipelineOutput(DTMPipelineOutput):
    """
    Output of [`SpeechT5Pipeline`]; fields as of [`DTMPipelineOutput`].

    Args:
        stopped (`list[bool]`, *optional*):
            One entry a text: whether the model said itself that it was at its end, in all chunks. What did not has
            gone on for as long as it may.
    """

    stopped: list[bool] | None = None


def check_output_type(output_type: str, allowed: tuple[str, ...] = OUTPUT_TYPES) -> None:
    """
    Raises:
        ValueError: for another than those that are allowed.
    """
    if output_type not in allowed:
        raise ValueError(f"`output_type` must be one of {allowed}, but got {output_type!r}.")


def check_code_output_type(output_type: str, of_latents: bool = False) -> None:
    """
    Raises:
        ValueError: for none of a [`TRMPipeline`]; one that speaks in latents has no codes.
    """
    check_output_type(output_type, ("np", "pt", *CODE_OUTPUT_TYPES[of_latents:]))
