"""Lists of sentences to speak: a user's own, and the public ones with the audio that they name."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np

from dtm_hf.evaluation.metric import BenchmarkItem
from dtm_hf.frontend.audio import MIN_SECONDS, SILENT_RMS

LIST_SUFFIXES = (".csv", ".tsv", ".jsonl")
TEXT_SUFFIX = ".txt"

_REQUIRED = ("reference_audio", "reference_text", "text")
_OPTIONAL = ("recording", "id", "language", "kind")


@dataclass
class Entry:
    """
    A line of a list, its audio not read yet.

    Args:
        where (`str`): File and line, for errors.
        id (`str`): Of the item.
        text (`str`): What to say.
        reference_audio (`Path`): Prompt.
        reference_text (`str`): What it says.
        recording (`Path`, *optional*): The text as its speaker says it.
        language (`str`, defaults to `"en"`): Language of the text.
        kind (`str`, *optional*): Of the text.
    """

    where: str
    id: str
    text: str
    reference_audio: Path
    reference_text: str
    recording: Path | None = None
    language: str = "en"
    kind: str | None = None


def text_list(path: Path, prompts: Sequence[tuple[Path, str]]) -> Iterator[Entry]:
    """
    Texts alone, one a line, where wanted with ` | ` and its kind behind it.

    Args:
        path (`Path`): The list.
        prompts (sequence of `(Path, str)`): Recordings and what they say; the lines take them in turns.

    Raises:
        ValueError: for no prompt, and a line with other fields.
    """
    if not prompts:
        raise ValueError(f"{path} holds texts alone: `prompts` must hold a recording to speak like, but got none.")
    turns = cycle(prompts)
    for line, row in _lines(path):
        where, fields = f"{path}:{line}", [field.strip() for field in row.split("|")]
        if len(fields) > 2:
            raise ValueError(f"{where}: must have 1 or 2 fields with | between, but got {len(fields)}.")
        audio, said = next(turns)
        yield Entry(where, f"{path.stem}-{line:04d}", fields[0], audio, said, kind=(fields[1:] or [None])[0] or None)


def own_list(path: Path) -> Iterator[Entry]:
    """
    A user's list: `.csv` and `.tsv` with a header, `.jsonl` with an object a line.

    Columns are `reference_audio`, `reference_text` and `text`, and where wanted `recording`, `id` (else the line
    number), `language` (else `"en"`) and `kind`. Audio files lie in the folder of the list or below it; a `.tsv` has
    no quoting, so that a text may begin with a quotation mark.

    Raises:
        ValueError: for other columns, a line that cannot be read, or an audio file outside the folder.
    """
    for line, row in _objects(path) if path.suffix == ".jsonl" else _table(path):
        where = f"{path}:{line}"
        _check_columns(where, list(row))
        for name, value in row.items():
            if not (isinstance(value, str) or (value is None and name in _OPTIONAL)):
                raise ValueError(f"{where}: `{name}` must be a string, but got {value!r}.")
        row = {name: value.strip() for name, value in row.items() if value and value.strip()}
        missing = [name for name in _REQUIRED if name not in row]
        if missing:
            raise ValueError(f"{where}: `{missing[0]}` is empty.")
        yield Entry(
            where=where,
            id=row.get("id", f"{path.stem}-{line:04d}"),
            text=row["text"],
            reference_audio=_inside(path.parent, row["reference_audio"], where, "reference_audio"),
            reference_text=row["reference_text"],
            recording=_inside(path.parent, row["recording"], where, "recording") if "recording" in row else None,
            language=row.get("language", "en"),
            kind=row.get("kind"),
        )


def seed_tts(folder: Path, language: str) -> Iterator[Entry]:
    """
    The test set of [Seed-TTS](https://github.com/BytedanceSpeech/seed-tts-eval): `meta.lst` in `folder`, or in
    `folder/en` and `folder/zh`, with the fields utterance | prompt's text | prompt | text | recording.

    Where a line has four fields, the recording is `wavs/UTTERANCE.wav` if that exists.

    Raises:
        ValueError: if there is no such file, and for a line with other fields or a file outside its folder.
    """
    path = next((p for p in (folder / "meta.lst", folder / language / "meta.lst") if p.is_file()), None)
    if path is None:
        raise ValueError(f"{str(folder)!r} holds neither meta.lst nor {language}/meta.lst of the Seed-TTS test set.")
    for line, text in _lines(path):
        where, fields = f"{path}:{line}", [field.strip() for field in text.split("|")]
        if len(fields) not in (4, 5):
            raise ValueError(f"{where}: must have 4 or 5 fields with | between, but got {len(fields)}.")
        utterance, prompt_text, prompt, text = fields[:4]
        if len(fields) == 5:
            recording = _inside(path.parent, fields[4], where, "recording")
        else:
            recording = _inside(path.parent, f"wavs/{utterance}.wav", where, "recording")
            recording = recording if recording.is_file() else None
        audio = _inside(path.parent, prompt, where, "reference_audio")
        yield Entry(where, utterance, text, audio, prompt_text, recording, language)


def librispeech_pc(folder: Path) -> Iterator[Entry]:
    """
    F5-TTS's cross-sentence subset of LibriSpeech-PC test-clean: one `.lst` file in `folder`, tab-separated fields
    prompt, its seconds, its text, utterance, its seconds, text; the audio of LibriSpeech in
    `folder/LibriSpeech/test-clean`, `folder/test-clean` or `folder`.

    Raises:
        ValueError: if there is not one such file, and for a line with other fields.
    """
    paths = sorted(folder.glob("*.lst"))
    if len(paths) != 1:
        raise ValueError(f"{str(folder)!r} must hold one .lst file of LibriSpeech-PC, but got {len(paths)}.")
    (path,) = paths
    places = [folder / "LibriSpeech" / "test-clean", folder / "test-clean", folder]
    root = next(place for place in places if place.is_dir())
    for line, text in _lines(path):
        where, fields = f"{path}:{line}", [field.strip() for field in text.split("\t")]
        if len(fields) != 6:
            raise ValueError(f"{where}: must have 6 fields with tabs between, but got {len(fields)}.")
        prompt, _, prompt_text, utterance, _, text = fields
        audio, recording = (
            _utterance(root, name, where, argument)
            for name, argument in ((prompt, "reference_audio"), (utterance, "recording"))
        )
        yield Entry(where, utterance, text, audio, prompt_text, recording)


def read_items(entries: Iterable[Entry], sampling_rate: int) -> list[BenchmarkItem]:
    """
    Items with their audio, mono and at `sampling_rate` in Hz.

    Raises:
        ValueError: naming the line, for an id that was there before, an empty text, and audio that is not there,
            cannot be read, is shorter than 0.1 s, silent, or not finite.
    """
    items, seen = [], {}
    for entry in entries:
        if entry.id in seen:
            raise ValueError(f"{entry.where}: `id` {entry.id!r} is that of {seen[entry.id]} too.")
        seen[entry.id] = entry.where
        for name in ("id", "text", "reference_text"):
            if not getattr(entry, name):
                raise ValueError(f"{entry.where}: `{name}` is empty.")
        recording = None
        if entry.recording is not None:
            recording = read_audio(entry.recording, sampling_rate, f"{entry.where}: `recording`")
        audio = read_audio(entry.reference_audio, sampling_rate, f"{entry.where}: `reference_audio`")
        item = BenchmarkItem(entry.id, entry.text, audio, entry.reference_text, recording, entry.language)
        item.kind = entry.kind
        items.append(item)
    return items


def read_audio(source, sampling_rate: int, where: str) -> np.ndarray:
    """
    Mono float32 samples `(T,)` at `sampling_rate` in Hz; channels are averaged.

    Args:
        source (`Path` or a binary file): What libsndfile reads.
        sampling_rate (`int`): Rate of the result in Hz.
        where (`str`): How errors begin.

    Raises:
        ValueError: for what is no speech at all ([`read_items`]).
    """
    import soundfile
    import soxr

    name = f"{where} {str(source)!r}" if isinstance(source, Path) else where
    if isinstance(source, Path) and not source.is_file():
        raise ValueError(f"{name} is not an existing file.")
    try:
        samples, rate = soundfile.read(source, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{name} cannot be read as audio: {error.error_string.strip()}") from error
    samples = samples.mean(axis=1)
    if len(samples) < MIN_SECONDS * rate:
        raise ValueError(f"{name} is {len(samples) / rate:.3f} s long; at least {MIN_SECONDS} s are needed.")
    if not np.isfinite(samples).all():
        raise ValueError(f"{name} holds NaN or infinite samples.")
    if np.sqrt(np.mean(samples.astype(np.float64) ** 2)) < SILENT_RMS:
        raise ValueError(f"{name} is silent.")
    return samples if rate == sampling_rate else soxr.resample(samples, rate, sampling_rate).astype(np.float32)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not blank."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}:{number}: is not UTF-8.") from error
            if text.strip():
                yield number, text


def _objects(path: Path) -> Iterator[tuple[int, dict]]:
    for number, line in _lines(path):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: is not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{number}: must be an object, but got {row!r}.")
        yield number, row


def _table(path: Path) -> Iterator[tuple[int, dict]]:
    numbers = []

    def lines() -> Iterator[str]:
        for number, line in _lines(path):
            numbers.append(number)
            yield line

    style = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {"strict": True}
    reader = csv.reader(lines(), **style)
    names = None
    try:
        for fields in reader:
            if names is None:
                names = [name.strip() for name in fields]
                _check_columns(f"{path}:{numbers[-1]}", names)
            elif len(fields) != len(names):
                raise ValueError(f"{path}:{numbers[-1]}: must have {len(names)} fields, but got {len(fields)}.")
            else:
                yield numbers[-1], dict(zip(names, fields, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}:{numbers[-1]}: cannot be read: {error}.") from error


def _check_columns(where: str, names: list[str]) -> None:
    """An unknown column is refused: a misspelt `recording` would quietly cost all figures that need it."""
    missing = [name for name in _REQUIRED if name not in names]
    foreign = [name for name in names if name not in _REQUIRED + _OPTIONAL]
    if missing or foreign or len(set(names)) != len(names):
        raise ValueError(
            f"{where}: columns must be {', '.join(_REQUIRED)} and may be {', '.join(_OPTIONAL)}, but got {names}."
        )


def _inside(folder: Path, name: str, where: str, argument: str) -> Path:
    """A file of a list, which names none outside its folder: neither with .. nor through a link."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{where}: `{argument}` {name!r} lies outside {str(folder)!r}.")
    return folder / name


def _utterance(root: Path, name: str, where: str, argument: str) -> Path:
    parts = name.split("-")
    if len(parts) != 3:
        raise ValueError(f"{where}: `{argument}` must read SPEAKER-CHAPTER-NUMBER, but got {name!r}.")
    return _inside(root, f"{parts[0]}/{parts[1]}/{name}.flac", where, argument)
