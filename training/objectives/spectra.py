"""How far apart two recordings sound, by their spectra."""

import torch

# Sizes of the Fourier transforms, a quarter of each between frames.
FFT_SIZES = (256, 512, 1024, 2048)
# About the magnitude of the noise of 16-bit samples. With a lower one the silence of made recordings, which is exact,
# has most of the distance and nearly all of its gradient.
_FLOOR = 1e-3


def spectral_distance(
    sound: torch.Tensor, wanted: torch.Tensor, size: int, share: torch.Tensor | float = 1.0
) -> torch.Tensor:
    """Distance of log magnitudes and of magnitudes, `(B,)`, of recordings that fill a share `(B,)` of the samples."""
    window = torch.hann_window(size, device=sound.device)
    spectra = [
        torch.stft(waveform.float(), size, size // 4, window=window, return_complex=True).abs().clamp(min=_FLOOR)
        for waveform in (sound, wanted)
    ]
    logs = (spectra[0].log() - spectra[1].log()).abs().mean(dim=(1, 2))
    relative = (spectra[0] - spectra[1]).flatten(1).norm(dim=1) / spectra[1].flatten(1).norm(dim=1).clamp(min=1e-3)
    return logs / share + relative
