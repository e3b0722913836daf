"""
The start of Griffin-Lim for speech in numpy: pulses at the pitch and noise, through the envelope of the mel.

The same as dtm_hf/vocoder/source_filter.py, which says where it comes from, for one item.
"""

import math
from functools import lru_cache

import numpy as np

from dtm_hf.runtime.spectra import stft

# These figures are explained in dtm_hf/vocoder/source_filter.py; a test holds the two files to the same answers.
_LOWEST, _OCTAVES, _PER_OCTAVE = 60.0, 3, 48
_COMB_END = 1400.0
_LEVELLING = 450.0
_JUMP, _LARGEST_JUMP = 30.0, 6.0
_VOICED = 2.0
_NOISE_FROM, _NOISE_WIDTH = 4000.0, 400.0
_ENVELOPE = 1 / 600


@lru_cache(maxsize=8)
def _combs(bin_width: float) -> tuple[np.ndarray, np.ndarray]:
    """The candidates in Hz `(C,)`, and of each the weights of the lowest bins `(L, C)`, of unit norm."""
    candidates = _LOWEST * 2 ** (np.arange(_OCTAVES * _PER_OCTAVE, dtype=np.float32) / _PER_OCTAVE)
    harmonic = np.arange(int(_COMB_END / bin_width) + 2)[:, None] * bin_width / candidates
    inside = (harmonic > 0.5) & (harmonic < np.floor(_COMB_END / candidates) + 0.5)
    combs = np.cos(2 * math.pi * harmonic) * inside / np.sqrt(np.maximum(harmonic, 1))
    return candidates, (combs / np.linalg.norm(combs, axis=0)).astype(np.float32)


def track_pitch(magnitude: np.ndarray, bin_width: float) -> tuple[np.ndarray, np.ndarray]:
    """The pitch `(N,)` in Hz of spectra `(N, F)`, also where there is none, and how clear it is."""
    candidates, combs = _combs(bin_width)
    low = magnitude[:, : len(combs)]
    level = np.log(low + np.float32(0.01) * low.max(axis=1, keepdims=True) + np.float32(1e-4))
    half = max(1, round(_LEVELLING / bin_width / 2))
    padded = np.pad(level, ((0, 0), (half, half)), mode="edge")
    smooth = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1, axis=1).mean(axis=-1)
    readings = (level - smooth) @ combs

    steps = np.arange(len(candidates))
    jumps = np.minimum(_JUMP / _PER_OCTAVE * np.abs(steps[:, None] - steps), _LARGEST_JUMP).astype(np.float32)
    best, origins = readings[0], []
    for reading in readings[1:]:
        # Symmetric, so that a row may stand for a column: the inner loop then runs over neighbours in memory.
        candidates_before = best[None] - jumps
        origin = candidates_before.argmax(axis=1)
        best = candidates_before[steps, origin] + reading
        origins.append(origin)
    path = [int(best.argmax())]
    for origin in reversed(origins):
        path.append(int(origin[path[-1]]))
    path = np.array(path[::-1])

    # The vertex of the parabola through a maximum and its neighbours.
    rows, inner = np.arange(len(path)), path.clip(1, len(candidates) - 2)
    below, at, above = (readings[rows, inner + offset] for offset in (-1, 0, 1))
    offset = (0.5 * (below - above) / np.minimum(below - 2 * at + above, -1e-6)).clip(-0.5, 0.5)
    return _LOWEST * 2 ** ((inner + offset) / _PER_OCTAVE), readings[rows, path]


def source_filter_start(
    magnitude: np.ndarray,
    sampling_rate: int,
    n_fft: int,
    hop_length: int,
    window: np.ndarray,
    noise: np.ndarray,
) -> np.ndarray:
    """
    A spectrogram with the harmonics and the phases that speech of these spectra would have.

    Args:
        magnitude (`np.ndarray` of shape `(N, n_fft // 2 + 1)`): spectra from a mel, which blurs harmonics.
        sampling_rate (`int`): in Hz.
        n_fft (`int`), hop_length (`int`), window (`np.ndarray` of shape `(n_fft,)`): of the Fourier transform.
        noise (`np.ndarray` of shape `((N - 1) * hop_length,)`): standard normal.

    Returns:
        complex64 `np.ndarray` of the same shape.
    """
    num_samples, bin_width = len(noise), sampling_rate / n_fft
    pitch, clarity = (_per_sample(values, num_samples) for values in track_pitch(magnitude, bin_width))
    voiced = (clarity > _VOICED).astype(np.float32)
    unit_window = window / np.linalg.norm(window)

    def spectra(waveform: np.ndarray) -> np.ndarray:
        return stft(waveform.astype(np.float32), n_fft, hop_length, unit_window)

    frequency = np.arange(magnitude.shape[1], dtype=np.float32) * bin_width
    noise_share = (1 / (1 + np.exp(-(frequency - _NOISE_FROM) / _NOISE_WIDTH))).astype(np.float32)
    source = np.sqrt(1 - noise_share) * spectra(voiced * _pulses(pitch, sampling_rate))
    source = source + np.sqrt(noise_share) * spectra(voiced * noise) + spectra((1 - voiced) * noise)

    # Twice the cepstra after the first: their spectrum is that of the envelope and of its minimum phase.
    cepstra = np.fft.irfft(np.log(np.maximum(magnitude, np.float32(1e-5))), n_fft)
    fold = np.zeros(n_fft, dtype=np.float32)
    fold[0], fold[1 : round(_ENVELOPE * sampling_rate)] = 1, 2
    return (source * np.exp(np.fft.rfft(cepstra * fold))).astype(np.complex64)


def _per_sample(values: np.ndarray, num_samples: int) -> np.ndarray:
    """`(N,)` of frames, linearly between them, as `(num_samples,)`."""
    places = np.arange(num_samples) * ((len(values) - 1) / num_samples)
    return np.interp(places, np.arange(len(values)), values)


def _pulses(pitch: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Pulses of unit power at a pitch in Hz `(T,)`, each shared between the two samples that it lies between."""
    step = pitch / sampling_rate
    phase = step.cumsum()
    begins = np.diff(np.floor(phase), prepend=0.0) > 0
    late = np.minimum((phase - np.floor(phase)) / step, 1)
    pulse = begins / np.sqrt(step)
    pulses = pulse * (1 - late)
    pulses[:-1] += (pulse * late)[1:]
    return pulses.astype(np.float32)
