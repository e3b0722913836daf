"""How far apart two recordings sound, by their spectra."""

from functools import lru_cache

import torch

# Sizes of the Fourier transforms, a quarter of each between frames.
FFT_SIZES = (256, 512, 1024, 2048)
# About the magnitude of the noise of 16-bit samples. With a lower one the silence of made recordings, which is exact,
# has most of the distance and nearly all of its gradient.
_FLOOR = 1e-3
_SAMPLES_PER_BAND = 12.8


def spectral_distance(
    sound: torch.Tensor,
    wanted: torch.Tensor,
    size: int,
    share: torch.Tensor | float = 1.0,
    mel_rate: int | None = None,
) -> torch.Tensor:
    """
    Distance of log magnitudes and of magnitudes, `(B,)`, of recordings `(B, T)` that fill a share `(B,)` of the
    samples. Given the sampling rate `mel_rate`, logarithms are of mel bands, 20 to 160 of them by size
    (arXiv 2306.06546, section 3.5): as they are, half of the bins lie above all that tells words apart.
    """
    spectra = [_magnitudes(waveform, size, size // 4) for waveform in (sound, wanted)]
    bands = spectra
    if mel_rate is not None:
        basis = _mel_basis(size, mel_rate, sound.device)
        bands = [basis @ spectrum for spectrum in spectra]
    logs = (bands[0].log() - bands[1].log()).abs().mean(dim=(1, 2))
    relative = (spectra[0] - spectra[1]).flatten(1).norm(dim=1) / spectra[1].flatten(1).norm(dim=1)
    return logs / share + relative


def log_mel_bands(waveforms: torch.Tensor, size: int, hop: int, rate: int) -> torch.Tensor:
    """Logarithms of the mel bands of [`spectral_distance`], `(B, bands, T // hop + 1)`, of recordings `(B, T)`."""
    return (_mel_basis(size, rate, waveforms.device) @ _magnitudes(waveforms, size, hop)).log()


def _magnitudes(waveforms: torch.Tensor, size: int, hop: int) -> torch.Tensor:
    window = torch.hann_window(size, device=waveforms.device)
    return torch.stft(waveforms.float(), size, hop, window=window, return_complex=True).abs().clamp(min=_FLOOR)


@lru_cache
def _mel_basis(size: int, rate: int, device: torch.device) -> torch.Tensor:
    """`(bands, size // 2 + 1)`, once a device; each band's weights have the sum 1."""
    from torchaudio.functional import melscale_fbanks

    basis = melscale_fbanks(size // 2 + 1, 0.0, rate / 2, int(size / _SAMPLES_PER_BAND), rate).T
    return (basis / basis.sum(dim=1, keepdim=True)).to(device)
