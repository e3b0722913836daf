"""[`GriffinLimVocoder`] in numpy: the same algorithm, to the rounding of Fourier transforms."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dtm_hf.runtime.noise import NoiseGenerator
from dtm_hf.runtime.source_filter import source_filter_start
from dtm_hf.runtime.spectra import hann_window, istft, mel_basis, stft

# As in vocoder_griffin_lim.py.
_INVERSION_UPDATES = 30
_LEAST_WEIGHT = 1e-4


def invert_mel(mel: np.ndarray, basis: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """Non-negative magnitudes `(N, F)` whose mel is `(N, M)`; `basis` is `(F, M)`. See the torch vocoder."""
    tiny = np.float32(1e-9)
    weight = basis.sum(1) + tiny
    magnitude = (mel / (basis.sum(0) + tiny)) @ (basis.T / weight) if start is None else start
    for _ in range(_INVERSION_UPDATES):
        magnitude = magnitude * ((mel / (magnitude @ basis + tiny)) @ basis.T) / weight
    return magnitude


class GriffinLim:
    """
    Args:
        config (`dict`): of a [`GriffinLimVocoder`].
    """

    def __init__(self, config: Mapping[str, Any]):
        self.config = config
        self.sampling_rate, self.hop_length = config["sampling_rate"], config["hop_length"]

    def __call__(self, mel: np.ndarray) -> np.ndarray:
        """Log-mel `(N, M)`, of at least 4 frames, to a waveform `((N - 1) * hop_length,)`, float32."""
        config = self.config
        window, n_fft = hann_window(config["n_fft"]), config["n_fft"]
        basis = mel_basis(self.sampling_rate, n_fft, config["input_channels"])
        basis = basis * (basis.sum(1, keepdims=True) > _LEAST_WEIGHT)
        mel = np.exp(mel.astype(np.float32))
        magnitude = invert_mel(mel, basis)
        phase = np.ones(magnitude.shape, dtype=np.complex64)
        if config["phase_init"] == "source_filter":
            # The noise of the source has a seed of its own, as in the torch vocoder.
            noise = NoiseGenerator(0).normal((len(mel) - 1) * self.hop_length)
            start = source_filter_start(magnitude, self.sampling_rate, n_fft, self.hop_length, window, noise)
            magnitude = invert_mel(mel, basis, start=np.abs(start) + np.float32(1e-6))
            phase = start / np.maximum(np.abs(start), np.float32(1e-30))
        return self._iterate(magnitude, phase, window)

    def _iterate(self, magnitude: np.ndarray, phase: np.ndarray, window: np.ndarray) -> np.ndarray:
        """Fast Griffin-Lim (Perraudin, Balazs and Sondergaard 2013)."""
        n_fft, hop_length = self.config["n_fft"], self.hop_length
        momentum = np.float32(self.config["momentum"] / (1 + self.config["momentum"]))
        previous = np.zeros_like(phase)
        for _ in range(self.config["num_iters"]):
            rebuilt = stft(istft(magnitude * phase, n_fft, hop_length, window), n_fft, hop_length, window)
            ahead = rebuilt - momentum * previous
            phase, previous = ahead / (np.abs(ahead) + np.float32(1e-16)), rebuilt
        return istft(magnitude * phase, n_fft, hop_length, window)
