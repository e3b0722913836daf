"""
A start for Griffin-Lim that knows of speech: pulses at the pitch and noise elsewhere, through the envelope of the mel.

It is the classical model of the vocal tract (Fant 1960) and of the vocoders built on it: in voiced frames the source
is a train of pulses, and noise above some 4 kHz; in all others it is noise. The filter is the smoothed spectrum with
its minimum phase. Griffin-Lim from there keeps what it would not find from zero phase: that the harmonics of a pulse
are in phase.
"""

import math
from functools import lru_cache

import torch
from torch.nn import functional as F

# Candidates of the pitch: from 60 to 480 Hz, a quarter of a semitone apart.
_LOWEST, _OCTAVES, _PER_OCTAVE = 60.0, 3, 48
# Harmonics above this, in Hz, are too close for the mel to tell apart.
_COMB_END = 1400.0
# Width in Hz over which the spectrum is levelled before the comb reads it.
_LEVELLING = 450.0
# Cost of a jump of the pitch, per octave and at most, in units of the comb's reading.
_JUMP, _LARGEST_JUMP = 30.0, 6.0
# The comb reads about 4.5 in voiced frames and 0.5 in others.
_VOICED = 2.0
# The band in which the source of voiced frames turns from pulses into noise, in Hz: its middle and its width.
_NOISE_FROM, _NOISE_WIDTH = 4000.0, 400.0
# Cepstra that are the envelope, in seconds: shorter than any period of the pitch.
_ENVELOPE = 1 / 600


@lru_cache(maxsize=8)
def _combs(bin_width: float, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The candidates in Hz `[C]`, and of each the weights of the lowest bins `[L, C]`, of unit norm."""
    candidates = _LOWEST * 2 ** (torch.arange(_OCTAVES * _PER_OCTAVE) / _PER_OCTAVE)
    harmonic = torch.arange(int(_COMB_END / bin_width) + 2)[:, None] * bin_width / candidates
    inside = (harmonic > 0.5) & (harmonic < (_COMB_END / candidates).floor() + 0.5)
    combs = torch.cos(2 * math.pi * harmonic) * inside / harmonic.clamp(min=1).sqrt()
    return candidates.to(device), (combs / combs.norm(dim=0)).to(device)


def track_pitch(magnitude: torch.Tensor, bin_width: float) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The pitch by combs of harmonics, on the path through time (Viterbi) that pays least for jumps.

    Args:
        magnitude (`torch.Tensor` of shape `[B, F, N]`): Spectra.
        bin_width (`float`): Hz between two bins.

    Returns:
        `tuple` of `torch.Tensor`s of shape `[B, N]`: the pitch in Hz, also where there is none, and how clear it is.
    """
    candidates, combs = _combs(bin_width, magnitude.device)
    low = magnitude[:, : len(combs)].transpose(1, 2)
    level = (low + 0.01 * low.amax(dim=-1, keepdim=True) + 1e-4).log()
    half = max(1, round(_LEVELLING / bin_width / 2))
    readings = (level - F.avg_pool1d(F.pad(level, (half, half), mode="replicate"), 2 * half + 1, 1)) @ combs

    steps = torch.arange(len(candidates), device=magnitude.device)
    jumps = (_JUMP / _PER_OCTAVE * (steps[:, None] - steps).abs()).clamp(max=_LARGEST_JUMP)
    best, origins = readings[:, 0], []
    for reading in readings.unbind(1)[1:]:
        best, origin = (best[:, None] - jumps).max(dim=-1)
        best = best + reading
        origins.append(origin)
    path = [best.argmax(dim=-1, keepdim=True)]
    for origin in reversed(origins):
        path.append(origin.gather(1, path[-1]))
    path = torch.cat(path[::-1], dim=1)

    # The vertex of the parabola through a maximum and its neighbours.
    inner = path.clamp(1, len(candidates) - 2)[..., None]
    below, at, above = (readings.gather(2, inner + offset)[..., 0] for offset in (-1, 0, 1))
    offset = (0.5 * (below - above) / (below - 2 * at + above).clamp(max=-1e-6)).clamp(-0.5, 0.5)
    pitch = _LOWEST * 2 ** ((inner[..., 0] + offset) / _PER_OCTAVE)
    return pitch, readings.gather(2, path[..., None])[..., 0]


def source_filter_start(
    magnitude: torch.Tensor, sampling_rate: int, n_fft: int, hop_length: int, window: torch.Tensor
) -> torch.Tensor:
    """
    A spectrogram with the harmonics and the phases that speech of these spectra would have.

    Args:
        magnitude (`torch.Tensor` of shape `[B, n_fft // 2 + 1, N]`): Spectra from a mel, which blurs harmonics.
        sampling_rate (`int`): In Hz.
        n_fft (`int`): Size of the Fourier transform, in samples.
        hop_length (`int`): Samples between frames.
        window (`torch.Tensor` of shape `[n_fft]`): Of the Fourier transform.

    Returns:
        complex `torch.Tensor` of the same shape; the same for the same input, for the noise has a seed of its own.
    """
    num_samples, bin_width = (magnitude.shape[-1] - 1) * hop_length, sampling_rate / n_fft
    pitch, clarity = (_per_sample(value, num_samples) for value in track_pitch(magnitude, bin_width))
    voiced = (clarity > _VOICED).float()
    noise = torch.randn(num_samples, generator=torch.Generator().manual_seed(0)).to(magnitude.device)

    def spectra(waveform: torch.Tensor) -> torch.Tensor:
        return torch.stft(waveform, n_fft, hop_length, n_fft, window / window.norm(), return_complex=True)

    frequency = torch.arange(magnitude.shape[1], device=magnitude.device)[:, None] * bin_width
    noise_share = torch.sigmoid((frequency - _NOISE_FROM) / _NOISE_WIDTH)
    source = (1 - noise_share).sqrt() * spectra(voiced * _pulses(pitch, sampling_rate))
    source = source + noise_share.sqrt() * spectra(voiced * noise) + spectra((1 - voiced) * noise)

    # Twice the cepstra after the first: their spectrum is that of the envelope and of its minimum phase.
    cepstra = torch.fft.irfft(magnitude.clamp(min=1e-5).log(), n_fft, dim=1)
    fold = torch.zeros(n_fft, 1, device=magnitude.device)
    fold[0], fold[1 : round(_ENVELOPE * sampling_rate)] = 1, 2
    return source * torch.fft.rfft(cepstra * fold, dim=1).exp()


def _per_sample(values: torch.Tensor, num_samples: int) -> torch.Tensor:
    """`[B, N]` of frames, linearly between them, as `[B, num_samples]`."""
    return F.interpolate(values[:, None], num_samples + 1, mode="linear", align_corners=True)[:, 0, :-1]


def _pulses(pitch: torch.Tensor, sampling_rate: int) -> torch.Tensor:
    """Pulses of unit power at a pitch in Hz `[B, T]`, each shared between the two samples that it lies between."""
    # In double precision: float32 would be a sample off after some seconds.
    step = pitch.double() / sampling_rate
    phase = step.cumsum(dim=-1)
    begins = phase.floor().diff(dim=-1, prepend=torch.zeros_like(phase[:, :1])) > 0
    late = ((phase - phase.floor()) / step).clamp(max=1)
    pulse = begins * step.rsqrt()
    return (pulse * (1 - late) + F.pad((pulse * late)[:, 1:], (0, 1))).float()
