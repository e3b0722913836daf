import io
import warnings

import numpy as np
import pytest
import soundfile
import torch

from dtm_hf.frontend.audio import load_reference


def tone(seconds: float, rate: int = 24000, amplitude: float = 0.4, frequency: float = 200.0) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


END = np.zeros(1200, np.float32)  # What F5-TTS ends a prompt with.


def test_loud_audio_at_the_right_rate_is_left_alone():
    audio = tone(1.0)
    samples, rms = load_reference((audio, 24000))
    assert samples.dtype == np.float32 and np.array_equal(samples, np.append(audio, END))
    assert rms == pytest.approx(0.4 / 2**0.5, rel=1e-3)


def test_every_kind_of_reference_gives_the_same(tmp_path):
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "clip.wav"
    soundfile.write(path, tone(1.0), 24000, subtype="PCM_16")
    expected, rate = soundfile.read(path, dtype="float32")
    row = {"path": str(path), "bytes": None}
    undecoded = datasets.Audio(decode=False).encode_example(str(path))
    for reference in (
        path,
        str(path),
        (expected, rate),
        (rate, expected),
        [expected.astype(np.float64), float(rate)],
        (torch.from_numpy(expected), rate),
        (expected.tolist(), rate),
        ((expected * 32768).astype(np.int16), rate),
        {"array": expected, "sampling_rate": rate, "path": None},
        {"bytes": path.read_bytes(), "path": "not there.wav"},
        row,
        undecoded,
    ):
        samples, rms = load_reference(reference)
        np.testing.assert_allclose(samples, np.append(expected, END), atol=1e-6)
        assert rms == pytest.approx(0.4 / 2**0.5, rel=1e-3)


def test_audio_decoder_of_datasets():
    """The decoder needs the system's FFmpeg, so its two-method shape is tested on a class of the same interface."""

    class Samples:
        data = torch.from_numpy(np.stack([tone(1.0, 16000), np.zeros(16000, np.float32)]))
        sample_rate = 16000

    class Decoder:
        def get_all_samples(self):
            return Samples()

    samples, rms = load_reference(Decoder())
    assert len(samples) == 25200 and rms == pytest.approx(0.2 / 2**0.5, rel=1e-3)


def test_stereo_is_averaged_in_either_layout():
    stereo = np.stack([tone(1.0), tone(1.0, frequency=300)], axis=1)
    expected = load_reference((stereo.mean(1), 24000))[0]
    np.testing.assert_allclose(load_reference((stereo, 24000))[0], expected, atol=1e-6)
    np.testing.assert_allclose(load_reference((stereo.T, 24000))[0], expected, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_other_rates_are_resampled(rate):
    samples, _ = load_reference((tone(1.0, rate), rate))
    assert abs(len(samples) - 25200) <= 1
    np.testing.assert_allclose(samples[1000:-2200], tone(1.0)[1000 : len(samples) - 2200], atol=2e-3)


@pytest.mark.parametrize(("dtype", "scale", "shift"), [("uint8", 128, 128), ("int16", 2**15, 0), ("int32", 2**31, 0)])
def test_integers_are_divided_by_their_range(dtype, scale, shift):
    samples, _ = load_reference(((tone(0.5).astype(np.float64) * scale + shift).astype(dtype), 24000))
    np.testing.assert_allclose(samples[:-1200], tone(0.5), atol=1.01 / scale + 1e-6)


def test_quiet_audio_is_raised_and_its_rms_returned():
    samples, rms = load_reference((tone(1.0, amplitude=0.02), 24000))
    assert rms == pytest.approx(0.02 / 2**0.5, rel=1e-3)
    assert np.sqrt(np.mean(samples[:-1200] ** 2)) == pytest.approx(0.1, rel=1e-4)


def test_long_audio_is_clipped_in_the_last_pause_with_a_warning():
    audio = tone(20.0)
    for pause in (3.0, 7.0, 9.5, 13.0):
        audio[int(pause * 24000) : int((pause + 0.3) * 24000)] = 0
    with pytest.warns(UserWarning, match="20.0 s long and was clipped to its first 9.[67] s"):
        samples, _ = load_reference((audio, 24000))
    assert 9.5 < len(samples) / 24000 < 9.6


def test_long_audio_without_a_pause_is_clipped_at_the_limit():
    with pytest.warns(UserWarning, match="clipped to its first 12.0 s"):
        samples, _ = load_reference((tone(13.0, 8000), 8000))
    assert len(samples) == 12 * 24000 + 1200
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_reference((tone(12.0), 24000))[0]) == 12 * 24000 + 1200


@pytest.mark.parametrize(
    ("reference", "error", "message"),
    [
        ("not there.wav", FileNotFoundError, "not there.wav"),
        ((np.zeros(0, np.float32), 24000), ValueError, "empty"),
        ((np.zeros((2, 0), np.float32), 24000), ValueError, "empty"),
        ((tone(0.05), 24000), ValueError, "0.050 s long"),
        ((np.zeros(24000, np.float32), 24000), ValueError, "silent"),
        ((1e-5 * tone(1.0), 24000), ValueError, "silent"),
        ((np.append(tone(1.0), [np.nan, np.inf]), 24000), ValueError, "2 NaN or infinite"),
        ((tone(1.0) * 32768, 24000), ValueError, "peak of 13107"),
        ((tone(1.0), 0), ValueError, "sampling rate.*0"),
        ((tone(1.0), -8000), ValueError, "sampling rate.*-8000"),
        ((tone(1.0), 22050.5), ValueError, "sampling rate.*22050.5"),
        ((tone(1.0), float("nan")), ValueError, "sampling rate.*nan"),
        ({"array": tone(1.0), "sampling_rate": "24000"}, ValueError, "sampling rate.*'24000'"),
        ((tone(1.0) > 0, 24000), TypeError, "dtype bool"),
        ((np.zeros((100, 100), np.float32), 24000), ValueError, r"at most 16 channels.*\[100, 100\]"),
        ((np.zeros((2, 3, 4), np.float32), 24000), ValueError, r"\[2, 3, 4\]"),
        ({"array": tone(1.0)}, ValueError, r"keys \['array'\]"),
        ((24000, 24000), TypeError, "tuple"),
        (tone(1.0), TypeError, "ndarray"),
        (None, TypeError, "NoneType"),
    ],
)
def test_bad_reference_is_refused_by_name(reference, error, message):
    with pytest.raises(error, match=f"`reference_audio`.*{message}"):
        load_reference(reference)


def test_files_that_are_not_audio(tmp_path):
    path = tmp_path / "notes.wav"
    path.write_text("These are notes, not sound.")
    with pytest.raises(ValueError, match="`reference_audio`.*notes.wav.*cannot be read as audio"):
        load_reference(path)
    with pytest.raises(ValueError, match="`reference_audio`.*bytes.*cannot be read as audio"):
        load_reference({"bytes": b"not sound", "path": None})
    with pytest.raises(FileNotFoundError, match="`reference_audio`"):
        load_reference(tmp_path)
    empty = io.BytesIO()
    soundfile.write(empty, np.zeros(0, np.float32), 24000, format="WAV")
    with pytest.raises(ValueError, match="`reference_audio` is empty"):
        load_reference({"bytes": empty.getvalue()})
