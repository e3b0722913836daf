"""Files of sound: how much of them is read, and what is said of those that cannot be."""

import io
import stat
import sys

import numpy as np
import pytest
import soundfile

from dtm_hf.frontend.decoding import MAX_READ_SECONDS, decode


def tone(seconds: float, rate: int = 8000) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * 200 * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def wav(samples: np.ndarray, rate: int = 8000) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def test_at_most_a_minute_is_read_and_the_whole_is_known(tmp_path):
    soundfile.write(tmp_path / "long.flac", tone(150), 8000)
    sound = decode(tmp_path / "long.flac", "long.flac")
    assert sound.samples.shape == (MAX_READ_SECONDS * 8000, 1) and sound.seconds == 150


def test_a_size_that_was_not_known_when_it_was_written_is_no_lie():
    content = bytearray(wav(tone(1.0)))
    content[40:44] = b"\xff\xff\xff\xff"
    assert decode(bytes(content), "(bytes)").seconds == pytest.approx(1.0, abs=0.01)
    content[40:44] = (16000 * 3).to_bytes(4, "little")
    with pytest.raises(ValueError, match=r"\(bytes\) has lost its end: its header says 3.00 s, and 1.0"):
        decode(bytes(content), "(bytes)")


def test_more_channels_and_samples_a_second_than_any_recorder_has():
    with pytest.raises(ValueError, match="at most 16 channels and 384000 Hz, but has 20 channels and 8000 Hz"):
        decode(wav(np.zeros((800, 20), np.float32)), "(bytes)")
    with pytest.raises(ValueError, match="but has 1 channels and 1000000 Hz"):
        decode(wav(tone(0.1), 1000000), "(bytes)")


def test_without_ffmpeg_of_any_kind_the_way_on_is_told(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError) as refused:
        decode(b"\0\0\0\x1cftypM4A ", "'voice.m4a'")
    message = str(refused.value)
    assert message.startswith("`reference_audio` 'voice.m4a' cannot be read as audio (")
    assert "pip install dtm-hf[audio]" in message and message.endswith("`ffmpeg -i recording.m4a recording.wav`.")
    assert message.count("(") == message.count(")")


def test_an_ffmpeg_program_is_asked_where_there_is_one(monkeypatch, tmp_path):
    """A program of that name that writes what it was asked for, or fails as FFmpeg does."""
    (tmp_path / "sound").write_bytes(wav(tone(1.0)))
    program = tmp_path / "ffmpeg"
    program.write_text(
        f"#!{sys.executable} -SE\nimport sys\n"
        "path = next(a for a in sys.argv if a.startswith('file:'))[5:]\n"
        "if open(path, 'rb').read(4) != b'good': sys.exit('Invalid data found')\n"
        f"sys.stdout.buffer.write(open({str(tmp_path / 'sound')!r}, 'rb').read())\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "-i voice.m4a").write_bytes(b"good")
    monkeypatch.chdir(tmp_path)
    for source in ("-i voice.m4a", b"good"):
        sound = decode(source, "voice.m4a")
        np.testing.assert_allclose(sound.samples[:, 0], tone(1.0), atol=1e-4)
    with pytest.raises(ValueError, match=r"cannot be read as audio \(ffmpeg: Invalid data found\)"):
        decode(b"bad sound", "voice.m4a")
