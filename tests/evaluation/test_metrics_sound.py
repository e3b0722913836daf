"""Spectrum, movement and melody: nothing to say against the recording itself, more with every step away from it."""

import numpy as np
import pytest
from spoken import SAMPLING_RATE, clip, glide, item, noisy, silence, spoken

from dtm_hf.evaluation.metric import Speech
from dtm_hf.evaluation.metrics.diversity import diversity
from dtm_hf.evaluation.metrics.sound import (
    FrameDifference,
    MelDistance,
    PitchSpread,
    RecordingMels,
    pitch_spread,
    warped_distance,
)


@pytest.fixture(scope="module")
def mels():
    return RecordingMels()


def of_mel(mel):
    return Speech(np.zeros(0, np.float32), SAMPLING_RATE, mel)


def test_the_distance_is_nothing_to_the_recording_and_grows_with_noise(mels):
    metric, judged = MelDistance(mels), item()
    assert metric(spoken(judged.recording), judged) == (pytest.approx(0, abs=1e-5), 1.0)
    distances = [metric(spoken(noisy(judged.recording, share)), judged)[0] for share in (0.03, 0.3, 3.0)]
    assert 0.2 < distances[0] < distances[1] < distances[2]
    assert metric(spoken(clip("michael")), judged)[0] > 1 < metric(spoken(silence()), judged)[0]


def test_the_distance_of_a_constant_offset_is_that_offset(mels):
    judged = item()
    assert MelDistance(mels)(of_mel(mels(judged) + 0.7), judged)[0] == pytest.approx(0.7, rel=1e-3)


def test_the_path_takes_no_offence_at_held_frames():
    mel = np.random.default_rng(0).normal(size=(40, 100))
    assert warped_distance(np.repeat(mel, 2, axis=0), mel) == pytest.approx(0, abs=1e-6)
    assert warped_distance(mel[::-1], mel) > 0.5


def test_the_recording_is_turned_into_a_mel_once(mels, monkeypatch):
    judged = item(id="once")
    first = mels(judged)
    monkeypatch.setattr(mels.feature_extractor, "log_mel", None)
    assert mels(judged) is first


def test_a_recording_at_another_rate_is_resampled():
    import soxr

    judged = item()
    low = item(recording=soxr.resample(judged.recording, 24000, 16000))
    assert len(RecordingMels(16000)(low)) == len(RecordingMels(24000)(judged))


def test_frame_difference_is_one_for_the_recording_below_for_blur_above_for_noise(mels):
    metric, judged = FrameDifference(mels), item()
    mel = mels(judged)

    def share(candidate):
        above, below = metric(of_mel(candidate), judged)
        return above / below

    assert share(mel) == 1.0
    assert share(2 * mel) == pytest.approx(4)
    assert share(np.concatenate([mel, mel[::-1]])) == pytest.approx(1, abs=0.02)
    blurred = [np.stack([np.convolve(band, np.ones(n) / n, "same") for band in mel.T], axis=1) for n in (3, 9)]
    # "same" fades the ends out: only the inside is a moving average.
    assert share(blurred[1][9:-9]) < share(blurred[0][9:-9]) < 0.7
    noise = np.random.default_rng(0).standard_normal(mel.shape)
    assert 1.05 < share(mel + 0.3 * noise) < share(mel + noise)
    assert share(spoken(noisy(judged.recording, 1.0)).mel) < 0.7


def test_frame_difference_has_no_figure_for_a_single_frame(mels):
    judged = item()
    assert FrameDifference(mels)(of_mel(mels(judged)[:1]), judged) is None


def test_the_spread_of_a_glide_is_that_of_even_semitones():
    assert pitch_spread(glide(1.0), SAMPLING_RATE) == pytest.approx(12 / np.sqrt(12), rel=0.03)
    assert pitch_spread(glide(0.5), SAMPLING_RATE) == pytest.approx(6 / np.sqrt(12), rel=0.05)
    assert pitch_spread(glide(0.0), SAMPLING_RATE) < 0.1


def test_noise_and_silence_have_no_pitch():
    assert pitch_spread(noisy(silence(1.0), 0) + np.random.default_rng(0).normal(0, 0.1, 24000), SAMPLING_RATE) is None
    assert pitch_spread(silence(1.0), SAMPLING_RATE) is None


def test_pitch_spread_is_told_against_the_recording():
    metric = PitchSpread()
    judged = item(id="glide", recording=glide(0.5))
    flat, same, lively = (metric(Speech(glide(o), SAMPLING_RATE, None), judged) for o in (0.25, 0.5, 1.0))
    assert same[0] == same[1] == flat[1]
    assert flat[0] / flat[1] == pytest.approx(0.5, rel=0.1)
    assert lively[0] / lively[1] == pytest.approx(2, rel=0.1)
    assert metric(Speech(silence(1.0), SAMPLING_RATE, None), judged) == (0.0, same[1])
    assert metric(Speech(glide(1.0), SAMPLING_RATE, None), item(id="still", recording=silence(1.0))) is None


def test_without_a_recording_there_is_no_figure(mels):
    bare = item(recorded=False)
    assert [
        metric(spoken(clip("heart")), bare) for metric in (MelDistance(mels), FrameDifference(mels), PitchSpread())
    ] == [None] * 3


def test_diversity_is_the_difference_of_pairs():
    zero, one, three = (np.full((5, 100), value) for value in (0.0, 1.0, 3.0))
    assert diversity([one, one]) == 0.0
    assert diversity([zero, one, three]) == pytest.approx((1 + 3 + 2) / 3)
    noise = np.random.default_rng(0).standard_normal((3, 50, 100))
    assert diversity(list(0.5 * noise)) == pytest.approx(0.5 * np.sqrt(2), rel=0.02)
    with pytest.raises(ValueError, match="`mels` must hold two or more with frames of as many bins, but got 1"):
        diversity([one])
    with pytest.raises(ValueError, match=r"got 2 of \[\(5, 80\), \(5, 100\)\]"):
        diversity([one, one[:, :80]])
    with pytest.raises(ValueError, match=r"got 2 of \[\(0, 100\), \(5, 100\)\]"):
        diversity([one, one[:0]])


def test_diversity_of_takes_of_other_lengths_is_that_of_what_they_say():
    slow = np.repeat(np.random.default_rng(1).standard_normal((40, 100)), 3, axis=0)
    quick = slow[1::3]
    assert diversity([slow, quick]) == 0.0
    assert diversity([slow, quick[::-1]]) == pytest.approx(np.sqrt(2), rel=0.1)
