import pytest
import torch

from dtm_hf.vocoder.source_filter import _pulses, source_filter_start, track_pitch

RATE, WINDOW = 24000, torch.hann_window(1024)


def harmonics(num_frames: int, pitch: float, glide: float = 0.2) -> torch.Tensor:
    """`[1, (num_frames - 1) * 256]`: equal harmonics of a pitch that has risen by the share `glide` after a second."""
    t = torch.arange((num_frames - 1) * 256) / RATE
    phase = 2 * torch.pi * pitch * (t + glide / 2 * t**2)
    return 0.05 * torch.sin(torch.arange(1, 40)[:, None] * phase).sum(0)[None]


def spectra(waveform: torch.Tensor) -> torch.Tensor:
    return torch.stft(waveform, 1024, 256, 1024, WINDOW, return_complex=True)


def noise(num_frames: int) -> torch.Tensor:
    return 0.1 * torch.randn(1, (num_frames - 1) * 256, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("pitch", [85.0, 120.0, 210.0, 330.0])
def test_pitch_of_a_glide_within_half_a_semitone_and_clear(pitch):
    found, clarity = track_pitch(spectra(harmonics(90, pitch)).abs(), RATE / 1024)
    true = pitch * (1 + 0.2 * torch.arange(90) * 256 / RATE)
    semitones = 12 * (found[0] / true).log2().abs()
    assert semitones[4:-4].max() < 0.5
    assert clarity[0, 4:-4].min() > 2.0


def test_noise_and_silence_have_no_clear_pitch():
    _, clarity = track_pitch(spectra(noise(90)).abs(), RATE / 1024)
    assert (clarity > 2.0).float().mean() < 0.1
    found, clarity = track_pitch(torch.zeros(1, 513, 5), RATE / 1024)
    assert torch.isfinite(found).all() and (clarity.abs() < 1e-4).all()


def test_pulses_of_unit_power_a_period_apart():
    waveform = _pulses(torch.full((1, RATE), 100.3), RATE)[0]
    # Sound at the pitch and its multiples alone: a pulse is put between samples, not on the nearest.
    at = (torch.arange(1, 5) * 100.3).tolist()
    t = torch.arange(RATE, dtype=torch.float64) / RATE
    tones = [abs(complex((waveform * torch.exp(-2j * torch.pi * f * t)).sum())) for f in (*at, 150.0, 250.0)]
    assert min(tones[:4]) > 50 * max(tones[4:])
    assert len(waveform.nonzero()) <= 2 * 101
    whole = _pulses(torch.full((1, RATE), 100.0), RATE)[0]
    assert whole.square().mean() == pytest.approx(1.0, abs=0.02)


def test_the_start_has_the_envelope_of_the_spectra_and_voice_where_they_have():
    spoken = torch.cat([harmonics(60, 120.0, 0.0), noise(60)], dim=1)
    magnitude = spectra(spoken).abs()
    start = source_filter_start(magnitude, RATE, 1024, 256, WINDOW)
    assert start.shape == magnitude.shape and start.is_complex()
    level = (start.abs().square().sum(1) / magnitude.square().sum(1)).log().abs()
    assert level[0, 4:-4].median() < 1.0
    found, clarity = track_pitch(start.abs(), RATE / 1024)
    assert (12 * (found[0, 4:50] / 120).log2().abs()).max() < 0.5 and clarity[0, 4:50].min() > 2.0
    assert (clarity[0, 66:] > 2.0).float().mean() < 0.1


def test_rows_do_not_see_each_other_and_the_noise_is_its_own():
    one, two = spectra(harmonics(40, 110.0)).abs(), spectra(noise(40)).abs()
    both = source_filter_start(torch.cat([one, two]), RATE, 1024, 256, WINDOW)
    torch.manual_seed(5)
    for row, alone in zip(both, (one, two), strict=True):
        own = source_filter_start(alone, RATE, 1024, 256, WINDOW)[0]
        torch.testing.assert_close(row, own, atol=1e-3, rtol=1e-3)
    torch.manual_seed(6)
    assert torch.equal(source_filter_start(alone, RATE, 1024, 256, WINDOW)[0], own)
