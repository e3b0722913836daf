"""Who tells made waveforms from recorded ones: the networks of the `vocos` package."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class Judgement:
    """
    What discriminators of one kind say of waveforms, in float32.

    Args:
        scores (`list[torch.Tensor]`): one `(B, ...)` each; hinge losses ask for 1 on recordings and -1 on others.
        features (`list[list[torch.Tensor]]`): what their layers see, `(B, ...)`.
    """

    scores: list[torch.Tensor]
    features: list[list[torch.Tensor]]


class Discriminators(nn.Module):
    """
    Two kinds: on samples folded by periods (HiFi-GAN, arXiv 2010.05646) and on bands of spectra (DAC, arXiv
    2306.06546).

    Args:
        periods (`list[int]`): periods in samples; 8.2 M parameters each, whatever the period.
        windows (`list[int]`): sizes of the Fourier transforms in samples.
        channels (`int`): of those on spectra.
    """

    def __init__(
        self,
        periods: Sequence[int] = (2, 3, 5, 7, 11),
        windows: Sequence[int] = (2048, 1024, 512),
        channels: int = 32,
    ):
        super().__init__()
        from vocos.discriminators import DiscriminatorP, DiscriminatorR

        self.periods = nn.ModuleList(DiscriminatorP(period) for period in periods)
        self.windows = nn.ModuleList(DiscriminatorR(window, channels=channels) for window in windows)

    def forward(self, wave: torch.Tensor) -> tuple[Judgement, Judgement]:
        """On samples and on spectra, of waveforms `(B, T)`; on a CPU in float32."""
        if wave.device.type == "cpu":
            # Convolutions of these shapes in bfloat16 answer now and then with what was in memory, NaN among it, on a
            # CPU with AMX (torch 2.13): the same weights and waveforms gave another loss each time.
            with torch.autocast("cpu", enabled=False):
                return _judge(self.periods, wave), _judge(self.windows, wave)
        return _judge(self.periods, wave), _judge(self.windows, wave)


def _judge(networks: nn.ModuleList, wave: torch.Tensor) -> Judgement:
    judged = [network(wave) for network in networks]
    # Sums over layers in bfloat16, in which autocast leaves the convolutions' results, would keep three digits.
    return Judgement(
        [score.float() for score, _ in judged], [[layer.float() for layer in layers] for _, layers in judged]
    )
