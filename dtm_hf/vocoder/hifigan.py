"""transformers' HiFi-GAN as a vocoder of ours: what it is heard through keeps padding out of it."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from dtm_hf.vocoder.batching import vocode_by_length
from dtm_hf.vocoder.contract import Vocoder


class HifiGan:
    """
    A [`~transformers.SpeechT5HifiGan`], or a port of one, with the surface of a [`Vocoder`]; weights stay where they
    are, and the class that diffusers saves is transformers' own.

    Args:
        network (`nn.Module`): the vocoder.
    """

    def __init__(self, network: torch.nn.Module):
        self.network = network

    @property
    def sampling_rate(self) -> int:
        """Samples a second, in Hz."""
        return self.network.config.sampling_rate

    @property
    def hop_length(self) -> int:
        """Samples a frame."""
        return math.prod(self.network.config.upsample_rates)

    def __call__(self, mel: torch.Tensor, lengths: torch.Tensor | Sequence[int] | None = None) -> torch.Tensor:
        return self.forward(mel, lengths)

    def forward(self, mel: torch.Tensor, lengths: torch.Tensor | Sequence[int] | None = None) -> torch.Tensor:
        """As of [`~dtm_hf.vocoder.contract.Vocoder`]; transformers' own forward fills a batch up with zeros."""
        num_channels = self.network.config.model_in_dim
        return vocode_by_length(self.network, mel, lengths, num_channels=num_channels, min_frames=1)


def as_vocoder(component: Any) -> Vocoder:
    """The component itself, or around a HiFi-GAN of transformers a [`HifiGan`]."""
    return component if hasattr(component, "hop_length") else HifiGan(component)
