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
from dtm_hf.commands.main import app

RATE = 24000
VOICE = models.EMBEDDED / "reference-slt.wav"
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
        as_long_as (`str`, *optional*): text beside which it lasts as long, within 2%.
        level (`tuple[float, float]`, *optional*): RMS of the speech, from and to.
        notes (`tuple[str, ...]`): what the notes on stderr say; without any there are none.
        error (`str`, *optional*): what the one line says that refuses it.
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
    result, speech = speak(row, tmp_path)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    lines = [line for line in result.stderr.splitlines() if line.startswith(("Error", "Note"))]
    if row.error is not None:
        assert result.exit_code in (1, 2) and speech is None
        assert len(lines) == 1 and row.error in lines[0], result.stderr
        return
    assert result.exit_code == 0, result.stderr
    assert len(lines) == len(row.notes), lines
    for line, note in zip(lines, row.notes, strict=True):
        assert re.search(note, line)
    assert np.isfinite(speech).all()
    if row.same_as is not None:
        np.testing.assert_array_equal(speech, plainly(row.same_as))
    if row.as_long_as is not None:
        assert len(speech) == pytest.approx(len(plainly(row.as_long_as)), rel=0.02)
    if row.seconds is not None:
        assert row.seconds[0] <= len(speech) / RATE <= row.seconds[1]
    if row.level is not None:
        assert row.level[0] <= np.sqrt(np.mean(speech**2)) <= row.level[1]
