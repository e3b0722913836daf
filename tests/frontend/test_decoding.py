"""Files of sound: how much of them is read, and what is said of those that cannot be."""

import io
import shutil
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
        "given = sys.argv[: sys.argv.index('-i')]\n"
        "formats = set(given[given.index('-format_whitelist') + 1].split(','))\n"
        "if 'mov' not in formats or formats & {'hls', 'concat', 'dash', 'sdp', 'imf'}: sys.exit('It opens others')\n"
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


@pytest.mark.parametrize("decoder", ["av", "ffmpeg"])
@pytest.mark.parametrize(
    "content",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\nfile://{folder}/private.mp3\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\nprivate.mp3\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile private.mp3\n",
        "ffconcat version 1.0\nfile {folder}/private.mp3\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    ],
    ids=["playlist", "relative playlist", "concat", "absolute concat", "sdp"],
)
def test_a_file_that_names_another_does_not_make_it_heard(content, decoder, monkeypatch, tmp_path):
    if decoder == "ffmpeg":
        if shutil.which("ffmpeg") is None:
            pytest.skip("there is no ffmpeg program")
        monkeypatch.setitem(sys.modules, "av", None)
    soundfile.write(tmp_path / "private.mp3", tone(1.0), 8000, format="MP3")
    content = content.format(folder=tmp_path)
    for name in ("x.m3u8", "x.ffconcat", "x.sdp", "x.wav", "x.m4a", "x"):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match="cannot be read as audio"):
            decode(tmp_path / name, name)
    with pytest.raises(ValueError, match="cannot be read as audio"):
        decode(content.encode(), "(bytes)")


def test_ffmpeg_opens_nothing_by_itself(monkeypatch, tmp_path):
    """Even a format that names other files, were it let through."""
    monkeypatch.setattr("dtm_hf.frontend.decoding._FORMATS", "hls,concat,mp3")
    soundfile.write(tmp_path / "private.mp3", tone(1.0), 8000, format="MP3")
    (tmp_path / "x.m3u8").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\nprivate.mp3\n#EXT-X-ENDLIST\n", encoding="utf-8"
    )
    (tmp_path / "x.ffconcat").write_text("ffconcat version 1.0\nfile private.mp3\n", encoding="utf-8")
    for name in ("x.m3u8", "x.ffconcat"):
        with pytest.raises(ValueError, match="cannot be read as audio"):
            decode(tmp_path / name, name)


def test_what_else_is_read_lies_in_one_file(tmp_path):
    """Kinds that browsers and telephones record, by path and as bytes; their names do not matter."""
    av = pytest.importorskip("av")
    for format, codec in (("mp4", "aac"), ("matroska", "aac"), ("adts", "aac"), ("asf", "wmav2"), ("mpegts", "mp2")):
        with av.open(str(tmp_path / "sound"), "w", format=format) as container:
            stream = container.add_stream(codec, rate=44100, layout="mono")
            stream.bit_rate = 64_000
            for start in range(0, 44100, 1024):
                samples = tone(1.0, 44100)[None, start : start + 1024]
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 44100, start
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        for source in (tmp_path / "sound", (tmp_path / "sound").read_bytes()):
            assert decode(source, format).seconds == pytest.approx(1.0, abs=0.1), format
