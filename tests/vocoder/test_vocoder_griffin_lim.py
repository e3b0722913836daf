import pytest
import torch
from torchaudio.functional import griffinlim, melscale_fbanks

from dtm_hf.frontend.feature_extraction_f5 import F5FeatureExtractor
from dtm_hf.vocoder.vocoder_griffin_lim import GriffinLimVocoder, invert_mel


def vowel(num_frames: int, pitch: float = 120.0) -> torch.Tensor:
    """`[1, (num_frames - 1) * 256]`: a gliding harmonic tone with two formants and a little noise."""
    t = torch.arange((num_frames - 1) * 256) / 24000
    phase = 2 * torch.pi * pitch * (t + 0.1 * t**2)
    harmonics = torch.arange(1, 60)[:, None]
    frequency = pitch * harmonics
    envelope = 1 / (1 + ((frequency - 700) / 150) ** 2) + 0.5 / (1 + ((frequency - 1900) / 200) ** 2) + 0.01
    noise = torch.randn(len(t), generator=torch.Generator().manual_seed(0))
    return 0.05 * (envelope * torch.sin(harmonics * phase)).sum(0)[None] + 1e-3 * noise


@pytest.fixture(scope="module")
def extractor():
    return F5FeatureExtractor()


@pytest.fixture(scope="module")
def vocoder():
    return GriffinLimVocoder()


def test_inverted_mel_is_non_negative_and_has_the_given_mel(extractor):
    basis = melscale_fbanks(513, 0.0, 12000.0, 100, 24000)
    mel = extractor.log_mel(vowel(60)).transpose(1, 2)
    magnitude = invert_mel(mel.exp(), basis)
    assert magnitude.shape == (1, 513, 60) and (magnitude >= 0).all()
    assert ((basis.T @ magnitude).log() - mel).abs().mean() < 2e-3
    true = torch.stft(vowel(60), 1024, 256, 1024, torch.hann_window(1024), return_complex=True).abs()
    pseudo = (torch.linalg.pinv(basis.T) @ mel.exp()).clamp(min=0)
    assert (magnitude - true).norm() < (pseudo - true).norm()


def test_waveform_has_the_mel_it_was_made_from(extractor, vocoder):
    mel = extractor.log_mel(vowel(100))
    waveform = vocoder(mel)
    assert waveform.shape == (1, 99 * 256) and waveform.dtype == torch.float32
    again = extractor.log_mel(waveform)
    assert (again - mel).abs().mean() < 0.15
    rough = GriffinLimVocoder(num_iters=1)(mel)
    assert (again - mel).norm() < (extractor.log_mel(rough) - mel).norm()


def test_zero_phase_is_the_griffin_lim_of_torchaudio(extractor):
    mel = extractor.log_mel(vowel(40))
    basis = melscale_fbanks(513, 0.0, 12000.0, 100, 24000)
    # Of the Nyquist frequency it has a millionth, which is rounding.
    basis[-1] = 0
    magnitude = invert_mel(mel.exp().transpose(1, 2), basis)
    theirs = griffinlim(magnitude, torch.hann_window(1024), 1024, 256, 1024, 1.0, 8, 0.99, None, rand_init=False)
    ours = GriffinLimVocoder(num_iters=8, phase_init="zero")(mel)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_the_start_of_a_source_and_a_filter_keeps_the_pulses_of_a_voice(extractor):
    def peaks(waveform: torch.Tensor) -> float:
        """How far the peaks of a period stand out: the mean over frames of maximum over root mean square."""
        frames = waveform[0, 1024:-1024].unfold(0, 512, 256)
        return float((frames.abs().amax(1) / frames.square().mean(1).sqrt()).mean())

    mel = extractor.log_mel(vowel(100))
    true, zero = peaks(vowel(100)), peaks(GriffinLimVocoder(num_iters=32, phase_init="zero")(mel))
    assert abs(peaks(GriffinLimVocoder()(mel)) - true) < 0.5 * abs(zero - true)


def test_deterministic_and_leaves_the_global_generator_alone(extractor, vocoder):
    mel = extractor.log_mel(vowel(20))
    torch.manual_seed(0)
    first, state = vocoder(mel), torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(vocoder(mel), first)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)


def test_padded_batch_equals_single_items(extractor):
    # More iterations amplify rounding, which the size of a batch changes on some processors. A leak differs by 0.15.
    vocoder = GriffinLimVocoder(num_iters=1)
    lengths = [40, 25, 33, 25]
    mels = [extractor.log_mel(vowel(n, 100.0 + 20 * i))[0] for i, n in enumerate(lengths)]
    batch = torch.randn(4, 40, 100)
    for row, mel in zip(batch, mels, strict=True):
        row[: len(mel)] = mel
    waveform = vocoder(batch, torch.tensor(lengths))
    assert waveform.shape == (4, 39 * 256)
    for row, mel in zip(waveform, mels, strict=True):
        end = (len(mel) - 1) * 256
        torch.testing.assert_close(row[:end], vocoder(mel[None])[0], atol=1e-4, rtol=0)
        assert (row[end:] == 0).all()


def test_bfloat16_module_and_autocast_compute_in_float32(extractor, vocoder):
    mel = extractor.log_mel(vowel(20))
    half = GriffinLimVocoder().to(torch.bfloat16)
    assert torch.equal(half(mel), vocoder(mel))
    assert half(mel.bfloat16()).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(vocoder(mel), vocoder.float()(mel))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_save_and_load(vocoder, extractor, tmp_path, dtype):
    assert sum(parameter.numel() for parameter in vocoder.parameters()) == 0
    GriffinLimVocoder(num_iters=4, momentum=0.0).to(dtype).save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    loaded = GriffinLimVocoder.from_pretrained(tmp_path, dtype=dtype)
    assert loaded.config.num_iters == 4 and loaded.config.momentum == 0.0
    assert loaded.dtype == dtype and loaded.device.type == "cpu"
    mel = extractor.log_mel(vowel(20))
    assert torch.equal(loaded(mel), GriffinLimVocoder(num_iters=4, momentum=0.0)(mel))


def test_bad_input(vocoder):
    with pytest.raises(ValueError, match="`num_iters`.*0"):
        GriffinLimVocoder(num_iters=0)
    with pytest.raises(ValueError, match="`momentum`.*1.0"):
        GriffinLimVocoder(momentum=1.0)
    with pytest.raises(ValueError, match="`phase_init`.*source_filter, zero.*random"):
        GriffinLimVocoder(phase_init="random")
    with pytest.raises(ValueError, match=r"`mel`.*100\].*\[1, 100, 20\]"):
        vocoder(torch.zeros(1, 100, 20))
    with pytest.raises(ValueError, match="`lengths` must be between 4 and the 3 frames"):
        vocoder(torch.zeros(1, 3, 100))
    with pytest.raises(ValueError, match="`lengths`.*21"):
        vocoder(torch.zeros(1, 20, 100), [21])
    with pytest.raises(ValueError, match="`lengths` must hold one value for each of 2"):
        vocoder(torch.zeros(2, 20, 100), [20])
    assert torch.isfinite(vocoder(torch.full((1, 4, 100), -11.5))).all()
