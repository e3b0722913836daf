"""
What people bring, one row each: what is spoken of it, or the sentence that refuses it.

All rows run through the entry point of the command line in this process, on the embedded pipeline, which is loaded
once; two steps without guidance suffice, for words are not listened to here. What a row can say of the speech: how
long it lasts, how loud it is, and that it is the same as that of another input to the sample.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from dtm_hf.commands import models, speaking
from dtm_hf.commands.console import as_typed
from dtm_hf.commands.main import app

RATE = 24000
VOICE = models.EMBEDDED / "reference-heart.wav"
SAID = VOICE.with_suffix(".txt").read_text(encoding="utf-8").strip()
PLAIN = "The train leaves at nine."


@dataclass(frozen=True)
class Row:
    """
    One input.

    Args:
        name (`str`): what is special about it.
        text (`str`): what to say.
        said (`str`): the reference text.
        recording (`Callable`, *optional*): makes the recording from the clean one `(T,)` at 24 kHz: other samples, or
            a file of any kind in the folder that it is given too, whose path it returns.
        options (`tuple`): more arguments.
        same_as (`str`, *optional*): text that sounds the same, to the sample, in the voice of the clean recording.
        seconds (`tuple[float, float]`, *optional*): how long the speech lasts, from and to.
        as_long_as (`str`, *optional*): text that lasts as long in the clean voice, within 5%, and is as loud, within a
            quarter.
        level (`tuple[float, float]`, *optional*): RMS of the speech, from and to.
        notes (`tuple[str, ...]`): what the notes on stderr say; without any there are none.
        error (`str`, *optional*): what the one line says that refuses it.
        needs (`str`, *optional*): library without which the row is left out.
    """

    name: str
    text: str = PLAIN
    said: str = SAID
    recording: Callable[[np.ndarray, Path], np.ndarray | Path] | None = None
    options: Sequence[str] = ()
    same_as: str | None = None
    as_long_as: str | None = None
    seconds: tuple[float, float] | None = None
    level: tuple[float, float] | None = None
    notes: Sequence[str] = ()
    error: str | None = None
    needs: str | None = None


def rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(samples.astype(np.float64) ** 2)))


def silence(seconds: float, level_db: float | None = None) -> np.ndarray:
    """Digital silence, or noise of a level in dBFS."""
    noise = np.random.default_rng(0).standard_normal(int(seconds * RATE))
    return (noise * (0 if level_db is None else 10 ** (level_db / 20))).astype(np.float32)


def behind(seconds: float, level_db: float | None = None):
    return lambda clean, _: np.append(clean, silence(seconds, level_db))


def before(seconds: float, level_db: float | None = None):
    return lambda clean, _: np.append(silence(seconds, level_db), clean)


def inside(seconds: float, level_db: float | None = None):
    """Between two words: where 60 ms in the middle half are quietest."""

    def insert(clean, _):
        middle = slice(len(clean) // 4, 3 * len(clean) // 4)
        quietest = np.argmin(np.convolve(clean**2, np.ones(1440), mode="same")[middle])
        return np.insert(clean, middle.start + quietest, silence(seconds, level_db))

    return insert


def written(suffix: str, keep: float = 1.0, **options):
    """A file of another kind, of which the first part is kept."""

    def write(clean, folder):
        path = folder / f"recording{suffix}"
        soundfile.write(path, clean, RATE, **options)
        content = path.read_bytes()
        path.write_bytes(content[: int(keep * len(content))])
        return path

    return write


def at_rate(rate: int, channels: int):
    """The same in all channels of a file of another rate."""

    def write(clean, folder):
        path, factor = folder / "recording.wav", rate / RATE
        samples = np.interp(np.arange(int(len(clean) * factor)) / factor, np.arange(len(clean)), clean)
        soundfile.write(path, np.repeat(samples[:, None], channels, axis=1).astype(np.float32), rate, subtype="PCM_16")
        return path

    return write


def encoded(suffix: str, codec: str, container: str):
    """A file that libsndfile does not read."""

    def write(clean, folder):
        av = pytest.importorskip("av")
        path, rate = folder / f"recording{suffix}", 48000 if codec == "libopus" else RATE
        with av.open(str(path), "w", format=container) as file:
            stream = file.add_stream(codec, rate=rate, layout="mono")
            frame = av.AudioFrame.from_ndarray(clean[None], format="fltp", layout="mono")
            frame.sample_rate = RATE
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                file.mux(packet)
        return path

    return write


def upside_down(clean, _):
    return np.stack([clean, -clean], axis=1)


def said_over_and_over(times: int):
    return lambda clean, _: np.tile(np.append(clean, silence(0.25)), times)


ROWS = [
    Row("plain text", seconds=(1.2, 2.2), level=(0.02, 0.3)),
    # Length is measured on what is spoken.
    Row("curly quotes", "‘The train leaves’", same_as="'The train leaves'"),
    Row("curly quotes around the reference text", said=f"“{SAID}”", same_as=PLAIN),
    Row("semicolons", "The train; leaves at nine.", same_as="The train, leaves at nine."),
    Row("an emoji", "The train leaves at nine. 😀", same_as=PLAIN, notes=["`text`.*'😀'"]),
    Row("an emoji of several characters", "The train 👩‍🚀❤️ leaves at nine.", same_as=PLAIN, notes=["'❤'"]),
    Row("a dash that it does not know", "The train—leaves at nine.", same_as=PLAIN, notes=["'—'"]),
    Row("what stands beside what is unknown", "At ☃ ☃ nine ☃, at ten ☃!", same_as="At nine, at ten!", notes=["'☃'"]),
    Row("white space of any kind", "\ufeffThe\ttrain\r\n\r\nleaves\u00a0at\u2003nine.\n", same_as=PLAIN),
    Row("invisible characters", "The tr\u00adain le\u200baves at nine.", same_as=PLAIN),
    Row("an unknown script among words", "The train 你好 leaves at nine.", same_as=PLAIN, notes=["'你', '好'"]),
    Row("an unknown script", "你好", error="`text` must hold characters of the vocabulary, but got '你好'"),
    Row("emoji alone", "😀 😀", error="`text` must hold characters of the vocabulary"),
    Row("marks alone", "...", error="`text` must hold words, and not marks alone, but got '...'"),
    Row("other marks alone", " ?! ", error="`text` must hold words, and not marks alone"),
    Row("marks beside an emoji", "😀!", error="`text` must hold words, and not marks alone"),
    # The text of the recording is text.
    Row("a reference text of an unknown script", said="你好", error="`reference_text` must hold characters"),
    Row("a reference text of marks", said="...", error="`reference_text` must hold words"),
    Row("a reference text with an emoji", said=f"{SAID} 😀", same_as=PLAIN, notes=["`reference_text`.*'😀'"]),
    Row("a reference text that is too long", said=SAID * 4, error="`reference_text` must be what is said in"),
    Row("a reference text that is long", said=f"{SAID} {SAID[:52]}",
        notes=[rf"`reference_text` has {len(SAID) + 53} .* is it what"]),
    Row("a reference text that is short", said="No", notes=["`reference_text` has 2 characters for"]),
    # What is written is said, and what is not known is told.
    Row("a time", "The train leaves at 7:15.", same_as="The train leaves at seven fifteen.", needs="wetext"),
    Row("a number", "Room 312.", same_as="Room three hundred and twelve.", needs="wetext"),
    Row("a telephone number", "Call 555-1234.", same_as="Call five five five, one two three four."),
    Row("capitals", "THE TRAIN LEAVES AT NINE.", same_as=PLAIN),
    Row("a word in capitals", "The TRAIN leaves at nine.", same_as=PLAIN),
    Row("a word that is none", "Blorptz the frumious bandersnatch!", seconds=(1.0, 3.5)),
    # Long text is cut, and what the network cannot run is refused.
    Row("five sentences", " ".join([PLAIN] * 5), seconds=(6.0, 9.0)),
    Row("no punctuation", "today " * 60, seconds=(15, 40)),
    Row("no blanks", "today" * 40, seconds=(8, 40)),
    Row("much too slow", "Today is Friday.", options=["--speed", "0.005"], error="at once beside this recording"),
    # Silence is no speech.
    Row("silence behind", recording=behind(0.5), as_long_as=PLAIN, notes=["s of speech in"]),
    Row("much silence behind", recording=behind(2), as_long_as=PLAIN, notes=["s of speech in .* silence at its ends"]),
    Row("noise behind", recording=behind(2, -66), as_long_as=PLAIN, notes=["s of speech in"]),
    Row("silence before", recording=before(1), as_long_as=PLAIN, notes=["s of speech in"]),
    Row("noise before", recording=before(3, -50), as_long_as=PLAIN, notes=["s of speech in"]),
    Row("a pause", recording=inside(3), seconds=(1.2, 2.1), level=(0.02, 0.3), notes=["long pauses was cut"]),
    Row("a noisy pause", recording=inside(2, -66), seconds=(1.2, 2.1), notes=["long pauses was cut"]),
    Row("more silence than F5-TTS reads", recording=before(14), as_long_as=PLAIN, notes=["s of speech in 1[67]"]),
    Row(
        "a quiet recording with silence",
        recording=lambda clean, _: 0.01 * np.append(clean, silence(2, -66)),
        seconds=(1.2, 2.2),
        level=(1e-4, 2e-3),
        notes=["s of speech in"],
    ),
    Row("silence alone", recording=lambda *_: silence(2), error="`reference_audio` is silent"),
    Row("a click in silence", recording=lambda *_: np.append(silence(1), [0.5] * 480), error="holds 0.020 s of"),
    # Files as people have them.
    Row("flac", recording=written(".flac"), as_long_as=PLAIN),
    Row("mp3", recording=written(".mp3"), as_long_as=PLAIN),
    Row("m4a", recording=encoded(".m4a", "aac", "ipod"), as_long_as=PLAIN),
    Row("aac", recording=encoded(".aac", "aac", "adts"), as_long_as=PLAIN),
    Row("webm", recording=encoded(".webm", "libopus", "webm"), as_long_as=PLAIN),
    Row("mp4", recording=encoded(".mp4", "aac", "mp4"), as_long_as=PLAIN),
    Row("a cut off wav", recording=written(".wav", 0.5), error="lost its end: its header says 3.43 s, and 1.71 s are"),
    Row("a cut off flac", recording=written(".flac", 0.5), error="is damaged"),
    Row("a cut off mp3", recording=written(".mp3", 0.3), error="lost its end"),
    Row("stereo", recording=lambda clean, _: np.stack([clean, clean], axis=1), same_as=PLAIN),
    Row("channels that cancel", recording=upside_down, error="2 channels that cancel each other"),
    # A prompt is 12 s of a recording, and its text the text of these.
    Row(
        "long, with its text",
        said=" ".join([SAID] * 8),
        recording=said_over_and_over(8),
        seconds=(1.2, 2.2),
        notes=["s of speech in", rf"28.\d s long and was clipped to its first 10.\d s; .* now '({SAID} ?){{3}}'"],
    ),
    Row(
        "very long, with its text",
        said=" ".join([SAID] * 30),
        recording=said_over_and_over(30),
        seconds=(1.2, 2.2),
        notes=["s of speech in", r"10\d.\d s long and was clipped"],
    ),
    Row(
        "long, with the text of its start",
        said=" ".join([SAID] * 3),
        recording=said_over_and_over(9),
        seconds=(1.2, 2.2),
        notes=["s of speech in", "clipped to its first 10.. s; `reference_text` must be what is said in these"],
    ),
    Row(
        "long, with a text that cannot be cut",
        said=" ".join([SAID[:-1]] * 8),
        recording=said_over_and_over(8),
        notes=["s of speech in"],
        error="s of speech, and give the text of that part.",
    ),
]  # fmt: skip

# Arguments are named as they were typed, whatever the API calls them.
ROWS += [
    Row("any number of steps", options=["--steps", "7"], seconds=(1.2, 2.2)),
    Row("a billion steps", options=["--steps", "1000000000"], error="'--steps'"),
    Row("a million head calls", options=["--steps", "1000", "--head-steps", "1000"], error="`num_head_steps` must be"),
    Row("guidance that the head does not know", options=["--guidance", "9"], error="`guidance_scale` must lie in [1"),
    Row("guidance that is no number", options=["--guidance", "nan"], error="`guidance_scale` must lie in"),
    Row("guidance for the first half", options=["--head-steps", "0", "--guidance-end", "0.5"], seconds=(1.2, 2.2)),
    Row("guidance beyond the end", options=["--guidance-end", "2"], error="'--guidance-end'"),
    Row("speech of twice the pace", options=["--speed", "2"], seconds=(0.6, 1.2)),
    Row("speech of a hundred times the pace", options=["--speed", "100"], error="`speed` must lie in [0.001, 10]"),
    Row("speech of no pace", options=["--speed", "0"], error="`speed` must lie in [0.001, 10]"),
    Row("a wanted duration", options=["--duration", "2.5"], seconds=(2.45, 2.55)),
    Row("a duration of nothing", options=["--duration", "0.01"], error="`duration_s` must lie in [0.1,"),
    Row("a duration that is no number", options=["--duration", "nan"], error="`duration_s` must lie in"),
    Row("more text than it has time for", f"{PLAIN} " * 9, options=["--duration", "1"], error="must leave room"),
    Row("a seed that no generator takes", options=["--seed", str(2**70)], error="'--seed'"),
    Row("half precision", options=["--dtype", "float16"], as_long_as=PLAIN, level=(0.02, 0.3)),
    Row("a type that is none", options=["--dtype", "float12"], error="'--dtype'"),
    Row("a device that is not there", options=["--device", "cuda:99"], error="`--device` 'cuda:99' cannot be used"),
    Row("a model that is nearly there", options=["--model", "dtm-f5-vioce"], error="Did you mean 'dtm-f5-voice'?"),
    Row("a student", options=["--student", str(models.EMBEDDED / "student")], seconds=(1.2, 2.2), level=(0.02, 0.3)),
    Row("a student of other steps", options=["--student", str(models.EMBEDDED / "student"), "--steps", "3"],
        error="`num_inference_steps` must be one of [2, 4]"),
    Row("a folder that is no student", options=["--student", str(models.EMBEDDED)], error="must hold a student's"),
    # What a file says of its size is no reason to make room for it.
    Row("eight channels at 192 kHz", recording=at_rate(192_000, 8), as_long_as=PLAIN),
    Row("eight channels at 655350 Hz", recording=at_rate(655_350, 8), error="at most 16 channels and 384000"),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    """The embedded pipeline, loaded by the command's own function at the first row that needs it."""
    patch = pytest.MonkeyPatch()
    pipelines = lru_cache(models.load_pipeline)
    patch.setattr(speaking, "load_pipeline", lambda *args, **kwargs: pipelines(*args, **kwargs))
    yield
    patch.undo()


def speak(row: Row, folder: Path):
    """Result of the command and the speech that it wrote, if it did."""
    samples, rate = soundfile.read(VOICE, dtype="float32")
    assert rate == RATE
    recording = VOICE
    if row.recording is not None:
        made = row.recording(samples, folder)
        recording = made if isinstance(made, Path) else folder / "recording.wav"
        if not isinstance(made, Path):
            soundfile.write(recording, made, RATE, subtype="FLOAT")
    output = folder / "speech.wav"
    arguments = ["speak", row.text, "--reference-audio", recording, "--reference-text", row.said, "-o", output]
    result = CliRunner().invoke(app, [*map(str, arguments), "--steps", "2", "--guidance", "1", *row.options])
    return result, soundfile.read(output, dtype="float32")[0] if output.exists() else None


@pytest.fixture(scope="module")
def plainly(tmp_path_factory):
    """Speech of a text in the clean voice."""

    @lru_cache
    def make(text: str) -> np.ndarray:
        return speak(Row("plain", text), tmp_path_factory.mktemp("plain"))[1]

    return make


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_real_input(row, plainly, tmp_path):
    if row.needs is not None:
        pytest.importorskip(row.needs)
    result, speech = speak(row, tmp_path)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    lines = [line for line in result.stderr.splitlines() if line.startswith(("Error", "Note"))]
    if row.error is not None and row.error.startswith("'--"):
        # What is of no such type or range is refused by the parser, in a box.
        assert result.exit_code == 2 and speech is None and row.error in result.stderr
        return
    error = lines.pop() if row.error is not None else ""
    assert len(lines) == len(row.notes), lines
    for line, note in zip(lines, row.notes, strict=True):
        assert re.search(as_typed(note), line)
    if row.error is not None:
        assert result.exit_code in (1, 2) and speech is None
        assert as_typed(row.error) in error
        return
    assert result.exit_code == 0, result.stderr
    assert np.isfinite(speech).all()
    if row.same_as is not None:
        np.testing.assert_array_equal(speech, plainly(row.same_as))
    if row.as_long_as is not None:
        expected = plainly(row.as_long_as)
        assert len(speech) == pytest.approx(len(expected), rel=0.05)
        assert rms(speech) == pytest.approx(rms(expected), rel=0.25)
    if row.seconds is not None:
        assert row.seconds[0] <= len(speech) / RATE <= row.seconds[1]
    if row.level is not None:
        assert row.level[0] <= rms(speech) <= row.level[1]
