"""What is spoken while training runs: `speaker|text` lines, each with a recording of its speaker to speak like."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from dtm_hf.frontend.audio import MAX_SECONDS, MIN_SECONDS
from dtm_hf.training.config.arguments import DataArguments
from dtm_hf.training.data.formats import Row
from dtm_hf.training.data.loader import open_sources
from dtm_hf.training.data.rows import BadRow, WrongLength
from dtm_hf.training.data.sources import Source
from dtm_hf.training.speech.rows import LONGEST_SECONDS, decode_audio


@dataclass(frozen=True)
class Prompt:
    """
    Args:
        speaker (`str`): speaker of the validation split; empty where rows name none.
        text (`str`): what to say; empty for the first other validation sentence of the speaker.
        source (`str`): where the prompt was given, for messages.
    """

    speaker: str
    text: str
    source: str


@dataclass(frozen=True, eq=False)
class SpokenPrompt:
    """
    A prompt with all that speaking it takes.

    Args:
        source (`str`): where the prompt was given, for messages.
        speaker (`str`): as the validation split names it.
        text (`str`): what to say.
        reference (`np.ndarray` of shape `(T,)`, *optional*): recording of the speaker, where one is needed.
        reference_text (`str`, *optional*): what is said in it.
        truth (`np.ndarray` of shape `(T,)`, *optional*): recording of `text` by this speaker.
    """

    source: str
    speaker: str
    text: str
    reference: np.ndarray | None
    reference_text: str | None
    truth: np.ndarray | None


def read_prompts(
    lines: Sequence[str] = (), file: str | Path | None = None, speaker: str | None = None
) -> list[Prompt]:
    """
    Prompts of a file, then those given as strings. Empty lines and lines that begin with `#` are ignored.

    Args:
        lines (`list[str]`): `speaker|text` each.
        file (`str` or `Path`, *optional*): text file with one such line each, in UTF-8.
        speaker (`str`, *optional*): whose the lines without a `|` are; without, there must be none.

    Raises:
        ValueError: for a file that is none, holds no prompt or no UTF-8, and for a line without exactly one `|`.
    """
    prompts = []
    if file is not None:
        if not Path(file).is_file():
            raise ValueError(f"`sample_prompts_file` must be a file of `speaker|text` lines, but got {str(file)!r}.")
        try:
            content = Path(file).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file}: not in UTF-8 ({error}).") from error
        numbered = ((f"{file}:{number}", line) for number, line in enumerate(content.splitlines(), 1))
        prompts += _parse(numbered, speaker)
        if not prompts:
            raise ValueError(f"{file}: expected `speaker|text` lines, but there are none.")
    numbered = ((f"`sample_prompts` entry {number}", line) for number, line in enumerate(lines, 1))
    return prompts + _parse(numbered, speaker)


def _parse(numbered: Iterable[tuple[str, str]], speaker: str | None) -> list[Prompt]:
    prompts = []
    for source, line in numbered:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts = [part.strip() for part in line.split("|")]
        if len(parts) == 1 and speaker is not None:
            parts = [speaker, *parts]
        if len(parts) != 2:
            raise ValueError(f"{source}: expected `speaker|text` with one `|`, but got {line!r}.")
        prompts.append(Prompt(*parts, source))
    return prompts


@dataclass(frozen=True)
class ValidationRow:
    """
    Args:
        speaker (`str`): empty where the source names none.
        text (`str`): transcript, stripped.
        samples (`Callable[[int, float], np.ndarray]`): gives the recording `(T,)` at a rate in Hz if it is not longer
            than some seconds, else raises [`BadRow`] or [`WrongLength`].
    """

    speaker: str
    text: str
    samples: Callable[[int, float], np.ndarray]


def validation_rows(arguments: DataArguments) -> Iterator[ValidationRow]:
    """
    Rows of the validation split of all sources that have one, in the order they are stored. Bad rows are passed over.

    Raises:
        ValueError: if there is no `validation_split`, or no source has it.
    """
    split = arguments.validation_split
    if split is None:
        raise ValueError("Samples speak like the speakers of the `validation_split`, but got none.")
    for source in open_sources(arguments, split, lambda source: source.columns):
        yield from _rows(source)


def _rows(source: Source) -> Iterator[ValidationRow]:
    for row in source.readable_rows():
        try:
            speaker, text = source.label(row, "speaker"), source.text(row)
        except BadRow:
            continue
        # A list where F5-TTS has tokenized it.
        yield ValidationRow(speaker or "", "".join(text).strip(), partial(_samples, source, row))


def _samples(source: Source, row: Row, rate: int, longest: float) -> np.ndarray:
    return decode_audio(source.content(row, "audio"), rate, longest)


@dataclass
class _Voice:
    """What the validation split holds of one wanted speaker: text -> samples, in the order of the rows."""

    needed: int = 2
    """References, one of which may be the text of a prompt."""
    wanted: set[str] = field(default_factory=set)
    references: dict[str, np.ndarray] = field(default_factory=dict)
    truths: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return len(self.references) >= self.needed and self.wanted <= self.truths.keys()


def find_recordings(
    prompts: list[Prompt], rows: Iterable[ValidationRow], sampling_rate: int, references: bool = True
) -> list[SpokenPrompt]:
    """
    Give each prompt the first recording of its speaker that says something else, and the true recording if a row of
    this speaker has exactly its text. Rows that cannot be decoded or hold no text are passed over, and as references
    those longer than 12 s. Reading stops when nothing is missing.

    Args:
        prompts (`list` of [`Prompt`]): not more than one with the same speaker and text.
        rows (iterable of [`ValidationRow`]): see [`validation_rows`].
        sampling_rate (`int`): of the recordings, in Hz.
        references (`bool`, defaults to `True`): whether a recording to speak like is needed.

    Raises:
        ValueError: for an unknown speaker, with those that exist; for one without a recording to speak like; for a
            prompt that was given before.
    """
    voices = {prompt.speaker: _Voice(2 if references else 0) for prompt in prompts}
    for prompt in prompts:
        voice = voices[prompt.speaker]
        voice.wanted |= {prompt.text} - {""}
        # Without a text it is the next of the speaker's own that is said.
        voice.needed = max(voice.needed, int(not prompt.text))
    speakers: dict[str, None] = {}
    for row in rows:
        speakers[row.speaker] = None
        if row.speaker not in voices or not row.text:
            continue
        _keep(voices[row.speaker], row, sampling_rate)
        if all(voice.complete for voice in voices.values()):
            break
    spoken: dict[tuple[str, str], SpokenPrompt] = {}
    for prompt in prompts:
        # Whether a voice that needs no recording is known, who speaks says.
        if prompt.speaker not in speakers and (references or not prompt.text):
            raise ValueError(
                f"{prompt.source}: the speaker must be one of the validation split, {sorted(speakers)}, but got "
                f"{prompt.speaker!r}."
            )
        found = _choose(prompt, voices[prompt.speaker], references)
        earlier = spoken.setdefault((found.speaker, found.text), found)
        if earlier is not found:
            raise ValueError(f"{prompt.source}: the same speaker and text as {earlier.source}.")
    return list(spoken.values())


def _keep(voice: _Voice, row: ValidationRow, rate: int) -> None:
    """Decode a row if something is still missing that it may be."""
    as_reference = len(voice.references) < voice.needed and row.text not in voice.references
    as_truth = row.text in voice.wanted and row.text not in voice.truths
    if not as_reference and not as_truth:
        return
    try:
        # The pipeline shortens longer references, whose text would then say more than is heard.
        max_seconds = LONGEST_SECONDS if as_truth else MAX_SECONDS
        samples = row.samples(rate, max_seconds)
    except (BadRow, WrongLength):
        return
    if as_truth:
        voice.truths[row.text] = samples
    if as_reference and MIN_SECONDS <= len(samples) / rate <= MAX_SECONDS:
        voice.references[row.text] = samples


def _choose(prompt: Prompt, voice: _Voice, with_reference: bool) -> SpokenPrompt:
    references = [text for text in voice.references if text != prompt.text]
    wanted = int(with_reference) + int(not prompt.text)
    if len(references) < wanted:
        raise ValueError(
            f"{prompt.source}: speaker {prompt.speaker!r} needs {wanted} usable validation row(s) of at most "
            f"{MAX_SECONDS:.0f} s with other texts, but has {len(references)}."
        )
    reference_text = references.pop(0) if with_reference else None
    text = prompt.text or references[0]
    return SpokenPrompt(
        source=prompt.source,
        speaker=prompt.speaker,
        text=text,
        reference=None if reference_text is None else voice.references[reference_text],
        reference_text=reference_text,
        truth=voice.truths.get(text, voice.references.get(text)),
    )
