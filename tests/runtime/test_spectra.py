"""Mels and Griffin-Lim in numpy against those of torch."""

import numpy as np
import pytest
import torch
from tiny import voice

from dtm_hf import F5FeatureExtractor, GriffinLimVocoder
from dtm_hf.runtime.griffin_lim import GriffinLim
from dtm_hf.runtime.spectra import hann_window, istft, log_mel, mel_basis, stft
from dtm_hf.vocoder.vocoder_griffin_lim import _mel_basis


@pytest.mark.parametrize("settings", [{}, {"win_length": 800}, {"feature_size": 80, "sampling_rate": 16000}])
def test_log_mel_is_f5s(settings):
    extractor = F5FeatureExtractor(**settings)
    # Harmonics alone leave bins in which both sides have nothing but the rounding of their Fourier transforms.
    waveform = voice(1.3) + np.random.default_rng(1).normal(0, 0.01, round(1.3 * 24000)).astype(np.float32)
    expected = extractor.log_mel(torch.from_numpy(waveform)[None])[0].numpy()
    mel = log_mel(waveform, extractor.to_dict())
    assert mel.dtype == np.float32
    # torchaudio rounds the corners of its triangles to float32, which a few values show.
    np.testing.assert_allclose(mel, expected, atol=1e-4)
    assert np.quantile(np.abs(mel - expected), 0.99) < 1e-5


def test_a_waveform_too_short_to_reflect_is_refused():
    with pytest.raises(ValueError, match="512"):
        log_mel(np.zeros(512, dtype=np.float32), F5FeatureExtractor().to_dict())


def test_the_mel_basis_is_torchaudios():
    from torchaudio.functional import melscale_fbanks

    expected = melscale_fbanks(513, 0.0, 12000.0, 100, 24000).numpy()
    np.testing.assert_allclose(mel_basis(24000, 1024, 100), expected, atol=2e-5)


@pytest.mark.parametrize("hop_length", [256, 300])
def test_istft_undoes_stft(hop_length):
    waveform, window = voice(0.5)[: 40 * hop_length], hann_window(1024)
    spectra = stft(waveform, 1024, hop_length, window)
    theirs = torch.stft(
        torch.from_numpy(waveform), 1024, hop_length, 1024, torch.hann_window(1024), return_complex=True
    )
    np.testing.assert_allclose(spectra, theirs.numpy().T, atol=1e-4)
    np.testing.assert_allclose(
        istft(spectra, 1024, hop_length, window), waveform[: (len(spectra) - 1) * hop_length], atol=1e-5
    )


# From zero phase, where the iterations are least settled, each rounding becomes more.
@pytest.mark.parametrize(("phase_init", "bar"), [("source_filter", 1e-6), ("zero", 1e-4)])
def test_griffin_lim_sounds_as_the_torch_vocoder(phase_init, bar):
    vocoder = GriffinLimVocoder(num_iters=4, phase_init=phase_init)
    waveform = voice(1.0) + np.random.default_rng(1).normal(0, 0.01, 24000).astype(np.float32)
    mel = F5FeatureExtractor().log_mel(torch.from_numpy(waveform)[None])
    expected = vocoder(mel)[0].numpy()
    heard = GriffinLim(vocoder.config)(mel[0].numpy())
    assert heard.shape == expected.shape and heard.dtype == np.float32
    assert 1 - np.corrcoef(heard, expected)[0, 1] < bar
    assert np.abs(heard - expected).max() < 10 * bar**0.5 * np.abs(expected).max()


@pytest.mark.parametrize("num_iters", [1, 4, 16])
def test_griffin_lim_is_that_of_torch_but_for_rounding(num_iters):
    vocoder = GriffinLimVocoder(num_iters=num_iters)
    generator = np.random.default_rng(0)
    magnitude = generator.gamma(1.0, size=(30, 513))
    phase = np.exp(2j * np.pi * generator.random(magnitude.shape))
    window = torch.hann_window(1024, dtype=torch.float64)
    expected = vocoder._iterate(torch.from_numpy(magnitude.T)[None], torch.from_numpy(phase.T)[None], window)[0]
    heard = GriffinLim(vocoder.config)._iterate(magnitude, phase, window.numpy())
    assert heard.dtype == np.float64
    assert 1 - np.corrcoef(heard, expected.numpy())[0, 1] < 1e-12


@pytest.mark.parametrize("settings", [{}, {"sampling_rate": 16000, "input_channels": 80}])
def test_no_frequency_has_a_weight_that_is_rounding_alone(settings):
    vocoder = GriffinLimVocoder(**settings)
    config = vocoder.config
    basis = _mel_basis(config.sampling_rate, 1024, config.input_channels, torch.device("cpu"))
    sums = basis.sum(1)
    # At the Nyquist frequency, where the last triangle ends, it was some millionths at 24 kHz, and nothing at 16.
    assert sums[-1] == 0 and bool(((sums == 0) | (sums > 1e-3)).all())
