"""A vocoder without parameters."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin

from dtm_hf.validation import CheckedConfigMixin, Iterations, MelBins, SamplingRate, Share, WindowSize

from .batching import vocode_by_length
from .source_filter import source_filter_start

PHASES = ("source_filter", "zero")

# Measured on speech: the mel of the magnitudes is within 2e-4 (log) of the given one after 30 updates.
_INVERSION_UPDATES = 30


# The last triangle ends at the Nyquist frequency. Rounded, it ends a hair behind it or before it, and that frequency
# then is as loud as its neighbours, or silent: by 3e-4 of correlation, two ways of rounding sounded apart on speech.
_LEAST_WEIGHT = 1e-4


@lru_cache(maxsize=8)
def _mel_basis(sampling_rate: int, n_fft: int, input_channels: int, device: torch.device) -> torch.Tensor:
    """Float32 `[n_fft // 2 + 1, M]`; kept outside the module, whose buffers follow a cast to bfloat16."""
    from torchaudio.functional import melscale_fbanks

    basis = melscale_fbanks(n_fft // 2 + 1, 0.0, sampling_rate / 2, input_channels, sampling_rate)
    return (basis * (basis.sum(1, keepdim=True) > _LEAST_WEIGHT)).to(device)


def invert_mel(
    mel: torch.Tensor,
    basis: torch.Tensor,
    num_updates: int = _INVERSION_UPDATES,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Non-negative magnitudes S with ``basis.T @ S = mel``.

    Multiplicative updates for the Kullback-Leibler divergence (Lee and Seung 2001, with the mel basis as the fixed
    factor) from a start that spreads each mel bin over its band. Of the solutions, of which there are many with 513
    unknowns for 100 bins, they keep a smooth one: on speech it lies nearer to the true magnitudes than those of the
    pseudo-inverse or of least squares.

    Args:
        mel (`torch.Tensor` of shape `[B, M, N]`): Mel magnitudes, not their logarithm.
        basis (`torch.Tensor` of shape `[F, M]`): Weight of each frequency in each mel bin.
        num_updates (`int`): How many updates.
        start (`torch.Tensor` of shape `[B, F, N]`, *optional*): Positive magnitudes to begin with; what the mel does
            not tell is kept of them.

    Returns:
        `torch.Tensor` of shape `[B, F, N]`.
    """
    tiny = 1e-9
    weight = basis.sum(1)[:, None] + tiny
    magnitude = (basis / weight) @ (mel / (basis.sum(0)[:, None] + tiny)) if start is None else start
    for _ in range(num_updates):
        magnitude = magnitude * (basis @ (mel / (basis.T @ magnitude + tiny))) / weight
    return magnitude


class GriffinLimVocoder(CheckedConfigMixin, ModelMixin, ConfigMixin):
    """
    Waveforms from log-mels by the fast Griffin-Lim algorithm (Perraudin, Balazs and Sondergaard 2013).

    It has no parameters, so it serves wherever no vocoder weights are at hand. It is deterministic and computes in
    float32 whatever the dtype of the module. From zero phase, speech gets the metallic sound known of Griffin-Lim;
    from the phases of a source and a filter ([`source_filter_start`]) it has less of it.

    Args:
        sampling_rate (`int`, defaults to 24000): Rate of the waveforms in Hz.
        input_channels (`int`, defaults to 100): Number of mel bins M.
        n_fft (`int`, defaults to 1024): Size of the Fourier transform and of the Hann window, in samples.
        hop_length (`int`, defaults to 256): Samples between frames.
        num_iters (`int`, defaults to 16): Griffin-Lim iterations.
        momentum (`float`, defaults to 0.99): Momentum of fast Griffin-Lim in [0, 1); 0 is the original algorithm.
        phase_init (`str`, defaults to `"source_filter"`): What the iterations start from: `"source_filter"`, for
            speech, or `"zero"`, for any sound.
    """

    @register_to_config
    def __init__(
        self,
        sampling_rate: SamplingRate = 24000,
        input_channels: MelBins = 100,
        n_fft: WindowSize = 1024,
        hop_length: WindowSize = 256,
        num_iters: Iterations = 16,
        momentum: Share = 0.99,
        phase_init: Literal["source_filter", "zero"] = "source_filter",
    ):
        super().__init__()
        if num_iters < 1:
            raise ValueError(f"`num_iters` must be at least 1, but got {num_iters}.")
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must be in [0, 1), but got {momentum}.")
        if phase_init not in PHASES:
            raise ValueError(f"`phase_init` must be one of {', '.join(PHASES)}, but got {phase_init!r}.")
        # The one tensor: pipelines ask their components for a device and a dtype, and diffusers writes no file for an
        # empty state dict, which it then cannot load.
        self.register_buffer("device_anchor", torch.zeros(()))

    @property
    def sampling_rate(self) -> int:
        """Samples per second."""
        return self.config.sampling_rate

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self.config.hop_length

    @torch.no_grad()
    def forward(self, mel: torch.Tensor, lengths: torch.Tensor | Sequence[int] | None = None) -> torch.Tensor:
        """
        Args:
            mel (`torch.Tensor` of shape `[B, N, M]`):
                Natural logarithm of mel magnitudes, as [`F5FeatureExtractor`] makes them.
            lengths (`torch.Tensor` or sequence of shape `[B]`, *optional*):
                Valid frames per item.

        Returns:
            `torch.Tensor` of shape `[B, (N - 1) * hop_length]`, float32: the first and the last frame are centred on
            the ends of the waveform. Zeros past the end of an item, from `(length - 1) * hop_length` on.

        Raises:
            ValueError: if the shape is another, or an item is too short for a reflected STFT (fewer than 4 frames).
        """
        return vocode_by_length(
            self._griffin_lim,
            mel,
            lengths,
            num_channels=self.config.input_channels,
            min_frames=self.config.n_fft // 2 // self.hop_length + 2,
        )

    def _griffin_lim(self, mel: torch.Tensor) -> torch.Tensor:
        config, window = self.config, torch.hann_window(self.config.n_fft, device=mel.device)
        with torch.autocast(mel.device.type, enabled=False):
            basis = _mel_basis(config.sampling_rate, config.n_fft, config.input_channels, mel.device)
            mel = mel.float().exp().transpose(1, 2)
            magnitude = invert_mel(mel, basis)
            phase = torch.ones_like(magnitude, dtype=torch.complex64)
            if config.phase_init == "source_filter":
                start = source_filter_start(magnitude, config.sampling_rate, config.n_fft, config.hop_length, window)
                magnitude = invert_mel(mel, basis, start=start.abs() + 1e-6)
                phase = torch.polar(torch.ones_like(magnitude), start.angle())
            return self._iterate(magnitude, phase, window)

    def _iterate(self, magnitude: torch.Tensor, phase: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
        """torchaudio's `griffinlim`, which can start from zero or random phases alone."""
        n_fft, hop_length = self.config.n_fft, self.hop_length
        momentum = self.config.momentum / (1 + self.config.momentum)
        previous = torch.zeros_like(phase)
        for _ in range(self.config.num_iters):
            waveform = torch.istft(magnitude * phase, n_fft, hop_length, n_fft, window)
            rebuilt = torch.stft(waveform, n_fft, hop_length, n_fft, window, return_complex=True)
            ahead = rebuilt - momentum * previous
            phase, previous = ahead / (ahead.abs() + 1e-16), rebuilt
        return torch.istft(magnitude * phase, n_fft, hop_length, n_fft, window)
