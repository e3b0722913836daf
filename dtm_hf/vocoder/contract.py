"""What a vocoder has to be for a pipeline to be heard through it."""

from collections.abc import Sequence
from typing import Protocol

import torch


class Vocoder(Protocol):
    """
    A module that makes waveforms of log-mels: [`VocosVocoder`], [`GriffinLimVocoder`], a port of either.

    Attributes:
        sampling_rate (`int`): samples a second, in Hz.
        hop_length (`int`): samples a frame.
    """

    sampling_rate: int
    hop_length: int

    def forward(self, mel: torch.Tensor, lengths: torch.Tensor | Sequence[int] | None = None) -> torch.Tensor:
        """
        Waveforms `(B, T)`, float32, with T at least `(N - 1) * hop_length`, of log-mels `(B, N, M)` of which an item
        has `lengths` valid frames: zeros past the end of an item, which is what it gives alone.
        """
        ...
