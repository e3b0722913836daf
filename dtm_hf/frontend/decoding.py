"""Files of sound to samples: at most the first minute, whatever a file says of its size."""

import io
import os
import re
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

# Of a recording at most this is read; a prompt is 12 s of it.
MAX_READ_SECONDS = 60
MAX_CHANNELS = 16
MAX_RATE = 384_000
# A minute of stereo at 192 kHz; of more channels or a higher rate less than a minute is read, and more than a prompt.
_MAX_VALUES = MAX_READ_SECONDS * 2 * 192_000
# A file that lacks more of what its header promises than this has lost its end. Of MP3 it may be an estimate.
_MISSING_SHARE, _MISSING_SHARE_OF_MP3 = 0.02, 0.5
# What a program that writes into a pipe puts where it does not know the size yet.
_UNKNOWN_SIZES = {0, 0x7FFFFFFF, 0xFFFFFFFF}
# The formats of FFmpeg that lie in one file, by their names there. Playlists and scripts (hls, concat, dash, sdp, ...)
# open what they name, so whoever may upload a recording could hear any other file: no format but these is opened, and
# it is told by what is in a file, not by what it is called.
_FORMATS = ",".join(
    "mov matroska webm aac loas asf xwma avi flv mpegts mpeg amr amrnb amrwb ac3 eac3 dts caf ape wv tta tak mpc mpc8 "
    "dsf rm voc aiff au wav w64 ogg flac mp3".split()
)
_WAY_ON = "Convert it first, for example with `ffmpeg -i recording.m4a recording.wav`"


@dataclass(frozen=True)
class Sound:
    """
    What was read.

    Args:
        samples (`np.ndarray` of shape `(T, channels)`): float32.
        rate (`int`): in Hz.
        seconds (`float`): of the whole recording, of which the samples may be the start.
    """

    samples: np.ndarray
    rate: int
    seconds: float


def decode(source: str | os.PathLike | bytes, name: str) -> Sound:
    """
    Read a file, or its bytes.

    WAV, FLAC, OGG, MP3 and what else libsndfile reads; anything else (m4a, aac, webm, wma, mp4) with PyAV or with an
    `ffmpeg` program, where one of them is installed.

    Args:
        source (`str`, `os.PathLike` or `bytes`): path or content.
        name (`str`): what to call it in messages.

    Raises:
        ValueError: if it is no sound, cannot be read here, is damaged, or ends before its header says.
    """
    import soundfile

    stream = io.BytesIO(source) if isinstance(source, bytes) else os.fspath(source)
    try:
        # Opened without `with`: where opening fails, soundfile's own clean-up has nothing to close.
        file = soundfile.SoundFile(stream)
    except soundfile.LibsndfileError as error:
        return _decode_with_ffmpeg(source, name, error.error_string.strip().rstrip("."))
    with file:
        return _read(file, name)


def _read(file, name: str) -> Sound:
    import soundfile

    rate, channels = file.samplerate, file.channels
    if channels > MAX_CHANNELS or rate > MAX_RATE:
        raise ValueError(
            f"`reference_audio` {name} must have at most {MAX_CHANNELS} channels and {MAX_RATE} Hz, but has "
            f"{channels} channels and {rate} Hz."
        )
    promised, there = _promised_seconds(file), file.frames / rate
    wanted = min(file.frames, MAX_READ_SECONDS * rate, _MAX_VALUES // channels)
    try:
        samples = file.read(wanted, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"`reference_audio` {name} is damaged: it cannot be read to its end ({error.error_string.strip()})"
        ) from error
    if len(samples) < wanted:
        there = len(samples) / rate
    if there < (1 - (_MISSING_SHARE_OF_MP3 if file.format == "MP3" else _MISSING_SHARE)) * promised:
        raise ValueError(
            f"`reference_audio` {name} has lost its end: its header says {promised:.2f} s, and {there:.2f} s are "
            "there. Fetch it again, or save what is there as a new file and give the text of that."
        )
    return Sound(samples, rate, max(there, len(samples) / rate))


def _promised_seconds(file) -> float:
    """What the header says. libsndfile corrects the size of a WAV file that is too short, and says so in its log."""
    corrected = re.search(r"^data\s*: (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    if corrected is None:
        return file.frames / file.samplerate
    promised, there = int(corrected[1]), int(corrected[2])
    if promised in _UNKNOWN_SIZES or there == 0:
        return file.frames / file.samplerate
    return file.frames / file.samplerate * promised / there


def _decode_with_ffmpeg(source: str | os.PathLike | bytes, name: str, reason: str) -> Sound:
    """What libsndfile does not read, and why."""
    for decoder in (_decode_with_av, _decode_with_program):
        try:
            sound = decoder(source)
        except ValueError as error:
            raise ValueError(f"`reference_audio` {name} cannot be read as audio ({error}). {_WAY_ON}.") from error
        if sound is not None:
            return sound
    raise ValueError(
        f"`reference_audio` {name} cannot be read as audio ({reason}). Read are WAV, FLAC, OGG, MP3 and what else "
        "libsndfile reads; with `pip install dtm-hf[audio]` or an `ffmpeg` program also m4a, aac, webm, wma and mp4. "
        f"{_WAY_ON}."
    )


def _decode_with_av(source: str | os.PathLike | bytes) -> Sound | None:
    """`None` without PyAV, whose wheels bring FFmpeg with them."""
    try:
        import av
    except ImportError:
        return None
    try:
        # FFmpeg reads what is open already, and opens nothing.
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": ""}
        with (
            io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file,
            av.open(file, options=options) as container,
        ):
            if not container.streams.audio:
                raise ValueError("it holds no audio stream")
            stream = container.streams.audio[0]
            if stream.channels > MAX_CHANNELS or stream.rate > MAX_RATE:
                raise ValueError(f"{stream.channels} channels at {stream.rate} Hz")
            rate, parts, read = stream.rate, [], 0
            resampler = av.AudioResampler(format="fltp", rate=rate)
            for frame in container.decode(stream):
                for part in resampler.resample(frame):
                    parts.append(part.to_ndarray().T)
                    read += len(parts[-1])
                if read >= MAX_READ_SECONDS * rate:
                    break
            seconds = (container.duration or 0) / 1e6
    except av.FFmpegError as error:
        raise ValueError(error.strerror) from error
    if not parts:
        raise ValueError("it holds no sound")
    samples = np.concatenate(parts)[: MAX_READ_SECONDS * rate]
    return Sound(samples.astype(np.float32), rate, max(seconds, len(samples) / rate))


def _decode_with_program(source: str | os.PathLike | bytes) -> Sound | None:
    """`None` without an `ffmpeg` program."""
    import soundfile

    program = shutil.which("ffmpeg")
    if program is None:
        return None
    with ExitStack() as stack:
        if isinstance(source, bytes):
            # Some formats have what their start means at their end, which a pipe cannot go to first.
            file = stack.enter_context(tempfile.NamedTemporaryFile())
            file.write(source)
            file.flush()
            source = file.name
        only = ["-format_whitelist", _FORMATS, "-protocol_whitelist", "file"]
        # Nothing that begins with a dash is an option.
        reading = [*only, "-i", f"file:{os.path.abspath(source)}", "-vn", "-sn", "-dn"]
        writing = ["-t", str(MAX_READ_SECONDS + 1), "-ac", "1", "-c:a", "pcm_f32le", "-f", "wav", "-"]
        run = subprocess.run([program, "-v", "error", "-nostdin", *reading, *writing], capture_output=True)
    if run.returncode != 0:
        said = run.stderr.decode(errors="replace").strip().splitlines()
        raise ValueError(f"ffmpeg: {said[-1]}" if said else "ffmpeg failed")
    with soundfile.SoundFile(io.BytesIO(run.stdout)) as file:
        return _read(file, "read by ffmpeg")
