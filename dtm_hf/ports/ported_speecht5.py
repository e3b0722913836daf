"""SpeechT5 and its vocoder as graphs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import SpeechT5Config, SpeechT5HifiGanConfig

from dtm_hf.ports.ported import Ported
from dtm_hf.runtime.manifest import RunGraph


class TensorGraphs:
    """
    Graphs called with tensors, which are shared and not copied on the CPU.

    Args:
        config (`dict`): of the component; not looked at.
        graphs (`dict[str, Callable]`): by name.
    """

    def __init__(self, config: Mapping[str, Any], graphs: Mapping[str, RunGraph]):
        self.graphs = graphs

    def __call__(self, graph: str, **tensors: torch.Tensor) -> dict[str, torch.Tensor]:
        device = next(iter(tensors.values())).device
        outputs = self.graphs[graph](**{name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()})
        return {name: torch.from_numpy(np.asarray(array)).to(device) for name, array in outputs.items()}


class PortedSpeechT5(Ported):
    """A [`~transformers.SpeechT5ForTextToSpeech`] as graphs: [`~dtm_hf.speecht5.generation.Steps`]."""

    network = TensorGraphs

    def _read_config(self, content: dict[str, Any]) -> SpeechT5Config:
        return SpeechT5Config.from_dict(content)

    def encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """As of [`~dtm_hf.speecht5.generation.Steps`]."""
        return self._runs("text", input_ids=input_ids, attention_mask=attention_mask)

    def step(self, **tensors: torch.Tensor) -> dict[str, torch.Tensor]:
        """As of [`~dtm_hf.speecht5.generation.Steps`]."""
        return self._runs("step", **tensors)

    def refine(self, mel: torch.Tensor) -> torch.Tensor:
        """As of [`~dtm_hf.speecht5.generation.Steps`]."""
        return self._runs("postnet", mel=mel)["refined"]


class PortedHifiGan(Ported):
    """A [`~transformers.SpeechT5HifiGan`] as a graph."""

    network = TensorGraphs

    def _read_config(self, content: dict[str, Any]) -> SpeechT5HifiGanConfig:
        return SpeechT5HifiGanConfig.from_dict(content)

    def forward(self, spectrogram: torch.Tensor) -> torch.Tensor:
        """Log-mels `(B, N, M)` to waveforms `(B, T)`."""
        return self._runs("vocoder", mel=spectrogram)["waveform"]


__all__ = ["PortedHifiGan", "PortedSpeechT5"]
