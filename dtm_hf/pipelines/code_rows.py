"""
Texts, voices and recordings to the rows of a batch of codes: what is to be said, checked, cut into chunks and timed.

No torch in here but in the codes themselves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dtm_hf.frontend.audio import TARGET_RMS
from dtm_hf.frontend.vocabulary import Vocabulary
from dtm_hf.pipelines.arguments import SPEEDS, check_durations, check_number
from dtm_hf.pipelines.chunking import chunk_text, share_seconds
from dtm_hf.pipelines.rows import check_text, check_texts, warn_of_text
from dtm_hf.reading import show

if TYPE_CHECKING:
    import torch

# Of read English, measured on 1.1 h of it: what a text takes where nothing was fitted.
CHARACTERS_PER_SECOND = 14.65
# `chunk_text` leaves a clause whole that is a quarter longer.
_LONGEST = 1 / 1.25


@dataclass(frozen=True, eq=False)
class CodePrompt:
    """
    A recording that a row goes on from.

    Args:
        codes (`torch.LongTensor` of shape `(K, F)`): of the recording.
        text (`str`): what is said in it, ended.
        rms (`float`): its loudness before it was raised.
    """

    codes: "torch.Tensor"
    text: str
    rms: float


@dataclass(frozen=True, eq=False)
class CodeRow:
    """
    One row of a batch: a chunk of one text. Rows of any calls can share a batch.

    Args:
        text_index (`int`): which of the texts of the call it belongs to.
        text (`str`): what is to be said.
        speaker_id (`int`): whose voice.
        token_ids (`list[int]`): of the text of the prompt and of what is to be said; 1 is the blank.
        num_frames (`int`): of prompt and target together.
        prompt ([`CodePrompt`], *optional*): what it goes on from.
        unspoken (`list[str]`): characters of its text that the vocabulary lacks, and that are left out.
        chunk_index (`int`, defaults to 0): which of the chunks of its text.
    """

    text_index: int
    text: str
    speaker_id: int
    token_ids: list[int]
    num_frames: int
    prompt: CodePrompt | None = None
    unspoken: list[str] = field(default_factory=list)
    chunk_index: int = 0

    @property
    def known_frames(self) -> int:
        """Frames of the recording before it."""
        return 0 if self.prompt is None else self.prompt.codes.shape[1]

    @property
    def gain(self) -> float:
        """What makes it as loud as its recording."""
        return 1.0 if self.prompt is None else min(self.prompt.rms / TARGET_RMS, 1.0)


@dataclass(frozen=True)
class CodeInputs:
    """What a call asks for, checked, in lists of one size; recordings and their texts are `None` where none is."""

    texts: list[str]
    speaker_ids: list[int]
    recordings: list[Any]
    reference_texts: list[str | None]
    durations: list[float | None]
    unspoken: list[list[str]]


@dataclass(frozen=True)
class Limits:
    """What a row may have: `frames` with its prompt, `characters` with the prompt's; `frame_rate` in Hz."""

    frames: int
    characters: int
    frame_rate: float


def check_code_inputs(
    tokenizer: Vocabulary,
    speakers: Sequence[str],
    text,
    voice,
    reference_audio,
    reference_text,
    speed,
    duration_s,
    normalizer: Callable[[str], str] | None = None,
) -> CodeInputs:
    """Refuse what cannot be spoken; arguments as of [`TRMPipeline`], its `text_normalizer` among them."""
    spoken = check_texts(text, tokenizer, normalizer)
    texts = [text for text, _ in spoken]
    given = {"voice": voice, "reference_audio": reference_audio, "reference_text": reference_text}
    lists = {name: value if isinstance(value, list) else [value] * len(texts) for name, value in given.items()}
    for name, values in lists.items():
        if len(values) != len(texts):
            raise ValueError(
                f"`{name}` must be single or have one entry for each of {len(texts)} texts, but got {len(values)}."
            )
    said = []
    for recording, item in zip(lists["reference_audio"], lists["reference_text"], strict=True):
        if (recording is None) != (item is None):
            raise ValueError(
                "`reference_audio` and `reference_text`, what is said in it, must be given together or not at all."
            )
        if item is not None and (not isinstance(item, str) or not item.strip()):
            raise ValueError(f"`reference_text` must be what is said in `reference_audio`, but got {show(item)}.")
        said.append(None if item is None else check_text("reference_text", item, tokenizer, normalizer))
    check_number("speed", speed, SPEEDS)
    durations = check_durations(duration_s, texts)
    speaker_ids = [find_voice(speakers, item) for item in lists["voice"]]
    warn_of_text("text", spoken, tokenizer)
    warn_of_text("reference_text", [pair for pair in said if pair is not None])
    return CodeInputs(
        texts,
        speaker_ids,
        lists["reference_audio"],
        [None if pair is None else pair[0] for pair in said],
        durations,
        [unspoken for _, unspoken in spoken],
    )


def find_voice(speakers: Sequence[str], voice: str | int | None) -> int:
    """
    Number of a voice: that of the name, or the number itself, also as text; the first for `None`.

    Raises:
        TypeError: for anything else.
        ValueError: for a name or a number that there is not.
    """
    if voice is None:
        return 0
    if not isinstance(voice, str | int) or isinstance(voice, bool):
        raise TypeError(f"`voice` must be a name or a number of a speaker, but got {show(voice)}.")
    if isinstance(voice, str) and voice in speakers:
        return list(speakers).index(voice)
    number = int(voice) if isinstance(voice, int) or voice.isascii() and voice.isdigit() and len(voice) < 9 else -1
    if not 0 <= number < len(speakers):
        raise ValueError(
            f"`voice` must be one of {show(list(speakers))} or a number below {len(speakers)}, but got {show(voice)}."
        )
    return number


def divide_codes(
    inputs: CodeInputs,
    prompts: Sequence[CodePrompt | None],
    tokenizer: Vocabulary,
    measure: Callable[[str], float] | None,
    speed: float,
    limits: Limits,
) -> list[CodeRow]:
    """
    Cut the texts into chunks and give each its length in frames: behind a recording at its pace, else at that of the
    measure.

    Args:
        inputs ([`CodeInputs`]): what is to be said.
        prompts (`list` of [`CodePrompt`] or `None`): one a text.
        tokenizer ([`F5Tokenizer`]): text to token ids.
        measure (`Callable[[str], float]`, *optional*): seconds that a text takes; by characters if left out.
        speed (`float`): above 1 is faster.
        limits ([`Limits`]): what a row may have.

    Raises:
        ValueError: for what is longer than that and cannot be cut.
    """
    measure = measure or seconds_by_characters
    rows = []
    for index, (text, prompt) in enumerate(zip(inputs.texts, prompts, strict=True)):
        known = 0 if prompt is None else prompt.codes.shape[1]
        before = "" if prompt is None else prompt.text
        frames, characters = limits.frames - known, limits.characters - len(tokenizer.ids(before))
        duration = inputs.durations[index]
        if duration is not None:
            pace = duration * limits.frame_rate / measure(text)
        else:
            pace = (limits.frame_rate if prompt is None else known / measure(before)) / speed
        if min(frames, characters) < 1:
            raise ValueError(
                f"`reference_audio` must leave room for `text`, but takes {known} of {limits.frames} frames and "
                f"{limits.characters - characters} of {limits.characters} characters."
            )

        def load(piece: str, pace=pace, frames=frames, characters=characters) -> float:
            return max(pace * measure(piece) / frames, len(tokenizer.ids(piece)) / characters)

        pieces = chunk_text(text, _LONGEST, load)
        wanted = [pace * measure(piece) for piece in pieces]
        if duration is not None:
            wanted = [seconds * limits.frame_rate for seconds in share_seconds(duration, pieces, measure)]
        for chunk_index, (piece, size) in enumerate(zip(pieces, wanted, strict=True)):
            ids, size = [number + 1 for number in tokenizer.ids(before + piece)], max(1, round(size))
            if size > frames or len(ids) > limits.characters:
                raise ValueError(
                    f"`text` {show(piece)} would last {size / limits.frame_rate:.1f} s with {len(ids)} characters, "
                    f"and the model speaks at most {frames / limits.frame_rate:.1f} s and {limits.characters} "
                    "characters at once. Shorten `duration_s`, raise `speed`, or cut the text."
                )
            unspoken = inputs.unspoken[index]
            rows.append(
                CodeRow(index, piece, inputs.speaker_ids[index], ids, known + size, prompt, unspoken, chunk_index)
            )
    return rows


def seconds_by_characters(text: str) -> float:
    """What a text takes where nothing was fitted."""
    return len(text) / CHARACTERS_PER_SECOND
