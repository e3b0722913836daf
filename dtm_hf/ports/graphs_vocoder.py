"""The graph of a [`VocosVocoder`]: all of it but the inverse Fourier transform, which no runtime has."""

import torch
from torch import nn

from dtm_hf.ports.graph import FRAMES, ROWS, Graph
from dtm_hf.vocoder.vocoder_vocos import VocosVocoder


class VocosGraph(nn.Module):
    """The network of Vocos; its head as `vocos.heads.ISTFTHead.forward` has it, up to the spectra."""

    def __init__(self, vocoder: VocosVocoder):
        super().__init__()
        self.backbone, self.out = vocoder.backbone, vocoder.head.out

    def forward(self, mel: torch.Tensor) -> dict[str, torch.Tensor]:
        """Log-mel `(B, N, M)` -> real and imaginary part of the spectra, each `(B, N, n_fft // 2 + 1)`."""
        magnitude, phase = self.out(self.backbone(mel.transpose(1, 2))).chunk(2, dim=-1)
        magnitude = magnitude.exp().clip(max=1e2)
        return {"real": magnitude * phase.cos(), "imaginary": magnitude * phase.sin()}


def vocos_graphs(vocoder: VocosVocoder) -> list[Graph]:
    """The graph of a vocoder in evaluation mode."""
    mel = torch.randn(ROWS, FRAMES, vocoder.config.input_channels)
    return [Graph("vocoder", VocosGraph(vocoder), {"mel": mel}, {"mel": (0, 1)})]
