"""Spectra and log-mels as torch and torchaudio compute them for F5-TTS, in numpy and float32."""

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=8)
def hann_window(size: int) -> np.ndarray:
    """Periodic Hann window, `(size,)`."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)).astype(np.float32)


@lru_cache(maxsize=8)
def mel_basis(sampling_rate: int, n_fft: int, num_mel_bins: int) -> np.ndarray:
    """
    Triangles on the HTK mel scale from 0 Hz to the Nyquist frequency, without area normalisation, `(F, M)`: those of
    `torchaudio.functional.melscale_fbanks`.
    """
    frequencies = np.linspace(0, sampling_rate // 2, n_fft // 2 + 1)
    highest = 2595.0 * np.log10(1.0 + sampling_rate / 2 / 700.0)
    corners = 700.0 * (10.0 ** (np.linspace(0.0, highest, num_mel_bins + 2) / 2595.0) - 1.0)
    width = np.diff(corners)
    slopes = corners[None] - frequencies[:, None]
    basis = np.minimum(-slopes[:, :-2] / width[:-1], slopes[:, 2:] / width[1:])
    return np.maximum(basis, 0.0).astype(np.float32)


def stft(waveform: np.ndarray, n_fft: int, hop_length: int, window: np.ndarray) -> np.ndarray:
    """Waveform `(T,)`, reflected at both ends, to complex spectra `(N, F)` with N of `T // hop_length + 1` frames."""
    padded = np.pad(waveform, n_fft // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop_length]
    return np.fft.rfft(frames * window)


def overlap_add(frames: np.ndarray, hop_length: int) -> np.ndarray:
    """Frames `(N, n_fft)`, each `hop_length` samples behind the one before, added up to `((N - 1) * hop + n_fft,)`."""
    num_frames, size = frames.shape
    parts = -(-size // hop_length)
    padded = np.pad(frames, ((0, 0), (0, parts * hop_length - size))).reshape(num_frames, parts, hop_length)
    added = np.zeros((num_frames + parts - 1, hop_length), dtype=frames.dtype)
    for part in range(parts):
        added[part : part + num_frames] += padded[:, part]
    return added.reshape(-1)[: (num_frames - 1) * hop_length + size]


def istft(spectra: np.ndarray, n_fft: int, hop_length: int, window: np.ndarray, trim: int | None = None) -> np.ndarray:
    """
    Complex spectra `(N, F)` back to a waveform.

    Args:
        spectra (`np.ndarray` of shape `(N, F)`): complex.
        n_fft (`int`), hop_length (`int`), window (`np.ndarray` of shape `(n_fft,)`): as they were made with.
        trim (`int`, *optional*): samples to leave out at both ends; half a window by default, as `torch.istft` does.
    """
    trim = n_fft // 2 if trim is None else trim
    added = overlap_add(np.fft.irfft(spectra, n_fft).astype(window.dtype) * window, hop_length)
    envelope = overlap_add(np.broadcast_to(window**2, (len(spectra), n_fft)), hop_length)
    return added[trim:-trim] / envelope[trim:-trim]


def log_mel(waveform: np.ndarray, config: dict) -> np.ndarray:
    """
    The log-mel `(N, M)`, float32, that [`F5FeatureExtractor`] makes of a waveform `(T,)`, with its configuration.

    Raises:
        ValueError: if the waveform is too short to be reflected.
    """
    n_fft = config["n_fft"]
    if len(waveform) <= n_fft // 2:
        raise ValueError(f"`waveform` must be longer than {n_fft // 2} samples, but has {len(waveform)}.")
    window = _centred(hann_window(config["win_length"]), n_fft)
    magnitude = np.abs(stft(waveform.astype(np.float32), n_fft, config["hop_length"], window))
    mel = magnitude @ mel_basis(config["sampling_rate"], n_fft, config["feature_size"])
    return np.log(np.maximum(mel, np.float32(1e-5)))


def _centred(window: np.ndarray, n_fft: int) -> np.ndarray:
    left = (n_fft - len(window)) // 2
    return np.pad(window, (left, n_fft - len(window) - left))
