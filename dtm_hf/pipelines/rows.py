"""
Texts and recordings to the rows of a batch: what is to be said, checked, cut into chunks and timed.

No torch in here: arrays are of whatever library the pipeline runs on.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dtm_hf.frontend.spoken_text import holds_words, spoken_text
from dtm_hf.frontend.vocabulary import Vocabulary
from dtm_hf.pipelines.arguments import SPEEDS, check_durations, check_number
from dtm_hf.pipelines.chunking import MAX_TOTAL_SECONDS, chunk_text, longest_chunk, share_seconds
from dtm_hf.pipelines.proportional_timing import Timing
from dtm_hf.reading import show

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

# Positions of the text encoder of F5-TTS.
MAX_FRAMES = 8192


@dataclass(frozen=True, eq=False)
class Reference:
    """
    A recording to speak like, ready for the backbone.

    Args:
        mel (`torch.Tensor` of shape `(N, M)`): log-mel.
        num_frames (`int`): as F5-TTS counts them, whole hops: one fewer than those of the mel.
        text (`str`): what is said in it, ended as F5-TTS ends it.
        seconds (`float`): its length.
        rms (`float`): its loudness before it was raised.
        durations (`torch.LongTensor` of shape `(L,)`, *optional*): frames of each token of the text, for a backbone
            that is told.
    """

    mel: "torch.Tensor"
    num_frames: int
    text: str
    seconds: float
    rms: float
    durations: "torch.Tensor | None" = None


@dataclass(frozen=True, eq=False)
class SpeechRow:
    """
    One row of a batch: a chunk of one text, said behind its reference. Rows of any calls can share a batch.

    Args:
        text_index (`int`): which of the texts of the call it belongs to.
        text (`str`): what is to be said.
        reference ([`Reference`]): whose voice.
        token_ids (`torch.LongTensor` of shape `(N_text,)`): of the text of the reference and of what is to be said.
        num_frames (`int`): of reference and target together.
        durations (`torch.LongTensor` of shape `(N_text,)`, *optional*): frames of each token, which add up to them.
        unspoken (`list[str]`): characters of its text that the vocabulary lacks, and that are left out.
        chunk_index (`int`, defaults to 0): which of the chunks of its text.
    """

    text_index: int
    text: str
    reference: Reference
    token_ids: "torch.Tensor"
    num_frames: int
    durations: "torch.Tensor | None" = None
    unspoken: list[str] = field(default_factory=list)
    chunk_index: int = 0


@dataclass(frozen=True)
class SpeechInputs:
    """
    What a call asks for, checked: texts, recordings, their texts and durations, in lists of one size. Texts are what
    is spoken of those that came, and `unspoken` the characters that is not.
    """

    texts: list[str]
    recordings: list[Any]
    reference_texts: list[str]
    durations: list[float | None]
    unspoken: list[list[str]]


def check_inputs(
    tokenizer: Vocabulary,
    text,
    reference_audio,
    reference_text,
    speed,
    duration_s,
    normalizer: Callable[[str], str] | None = None,
) -> SpeechInputs:
    """Refuse what cannot be spoken; arguments as of [`DTMPipeline`], its `text_normalizer` among them."""
    spoken = check_texts(text, tokenizer, normalizer)
    texts = [text for text, _ in spoken]
    recordings = reference_audio if isinstance(reference_audio, list) else [reference_audio] * len(texts)
    reference_texts = reference_text if isinstance(reference_text, list) else [reference_text] * len(texts)
    if len(recordings) != len(texts) or len(reference_texts) != len(texts):
        raise ValueError(
            f"`reference_audio` and `reference_text` must be single or have one entry for each of {len(texts)} "
            f"texts, but got {len(recordings)} and {len(reference_texts)}."
        )
    for item in reference_texts:
        if not isinstance(item, str) or not item.strip():
            raise ValueError(
                f"`reference_text` must be what is said in `reference_audio`, but got {show(item)}. Transcribe the "
                "recording first, for example with the automatic-speech-recognition pipeline of transformers."
            )
    said = {item: check_text("reference_text", item, tokenizer, normalizer) for item in reference_texts}
    check_number("speed", speed, SPEEDS)
    durations = check_durations(duration_s, texts)
    warn_of_text("text", spoken, tokenizer)
    warn_of_text("reference_text", list(said.values()))
    return SpeechInputs(
        texts,
        recordings,
        [said[item][0] for item in reference_texts],
        durations,
        [unspoken for _, unspoken in spoken],
    )


def check_texts(
    text: Any, tokenizer: Vocabulary, normalizer: Callable[[str], str] | None = None
) -> list[tuple[str, list[str]]]:
    """
    What is spoken of each text of a call, and what is not, as of [`check_text`].

    Raises:
        TypeError: for anything but a string or a list of them.
        ValueError: for what cannot be spoken.
    """
    texts = [text] if isinstance(text, str) else text
    if not isinstance(texts, list) or not texts or not all(isinstance(item, str) for item in texts):
        raise TypeError(f"`text` must be a string or a non-empty list of strings, but got {show(text)}.")
    for item in texts:
        if not item.strip():
            raise ValueError(f"`text` must not be empty, but got {show(item)}.")
    return [check_text("text", item, tokenizer, normalizer) for item in texts]


def warn_of_text(name: str, spoken: Sequence[tuple[str, list[str]]], tokenizer: Vocabulary | None = None) -> None:
    """Warn of what is left out of the texts of [`check_texts`], and, by a tokenizer, of words it never heard."""
    if unspoken := list(dict.fromkeys(character for _, missing in spoken for character in missing)):
        logger.warning(f"`{name}` holds what the vocabulary lacks, which is left out: {unspoken}.")
    if tokenizer is None:
        return
    if strange := list(dict.fromkeys(word for item, _ in spoken for word in tokenizer.unknown_words(item))):
        logger.warning(
            f"`{name}` holds words that this model has never heard and will not say well: {strange}. It knows "
            f"{len(tokenizer.words)}, which `dtm-hf info` shows."
        )


def check_text(
    name: str, text: str, tokenizer: Vocabulary, normalizer: Callable[[str], str] | None = None
) -> tuple[str, list[str]]:
    """
    What is spoken of a text, and what is not.

    Raises:
        ValueError: naming the argument, if nothing is spoken, or it is no text.
    """
    _check_encodable(name, text)
    spoken, unspoken = spoken_text(text if normalizer is None else normalizer(text), tokenizer)
    if not holds_words(spoken):
        wanted = "characters of the vocabulary" if holds_words(text) or not spoken else "words, and not marks alone"
        raise ValueError(f"`{name}` must hold {wanted}, but got {show(text)}.")
    return spoken, unspoken


def _check_encodable(name: str, text: str) -> None:
    """Half of a surrogate pair is no character: it comes of broken decoding, and has no length in UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"`{name}` must be text, but got {show(text)} with half a surrogate pair at position {error.start}."
        ) from error


def divide(
    inputs: SpeechInputs,
    references: Sequence[Reference],
    tokenizer: Vocabulary,
    timing: Timing,
    speed: float,
    frame_rate: float,
    generator: "torch.Generator | list[torch.Generator] | None" = None,
    max_seconds: float | None = None,
    max_frames: int = MAX_FRAMES,
) -> list[SpeechRow]:
    """
    Cut the texts into chunks and give each its length in frames.

    Args:
        inputs ([`SpeechInputs`]): what is to be said.
        references (`list` of [`Reference`]): one a text.
        tokenizer ([`F5Tokenizer`]): text to token ids.
        timing ([`Timing`]): how long a text takes.
        speed (`float`): above 1 is faster than the reference.
        frame_rate (`float`): frames a second.
        generator (`torch.Generator` or a list with one a text, *optional*): where lengths are drawn.
        max_seconds (`float`, *optional*): what reference and chunk may last together; F5-TTS's 22 by default.
        max_frames (`int`, defaults to 8192): what they may not exceed, for the network cannot run more.

    Raises:
        ValueError: for what would last longer than that and cannot be cut.
    """
    chunks, measure = [], timing.measure
    max_seconds = min(max_seconds or MAX_TOTAL_SECONDS, max_frames / frame_rate)
    for index, (text, reference, duration) in enumerate(zip(inputs.texts, references, inputs.durations, strict=True)):
        longest = longest_chunk(reference.text, reference.seconds, speed, measure, max_seconds)
        if duration is not None:
            longest = min(longest, measure(text) / duration * max(max_seconds - reference.seconds, max_seconds / 3))
        pieces = chunk_text(text, longest, measure)
        seconds = [None] * len(pieces) if duration is None else share_seconds(duration, pieces, measure)
        chunks += [(index, k, piece, reference, seconds[k]) for k, piece in enumerate(pieces)]
    padded_ids = tokenizer([reference.text + piece for _, _, piece, reference, _ in chunks])
    rows = []
    for (index, chunk_index, piece, reference, wanted), ids in zip(chunks, padded_ids, strict=True):
        ids = ids[ids != tokenizer.padding_value]
        frames, durations = timing.last(
            piece,
            reference.text,
            reference.num_frames,
            reference.durations,
            None if wanted is None else int(wanted * frame_rate),
            # `CFM.sample`: room for every token, and for one frame after the prompt.
            max(len(ids), len(reference.mel)) + 1 - reference.num_frames,
            speed,
            generator[index] if isinstance(generator, list) else generator,
        )
        num_frames = reference.num_frames + frames
        if num_frames > max_frames:
            raise ValueError(
                f"`text` {piece!r} would last {frames / frame_rate:.1f} s, and the model speaks at most "
                f"{(max_frames - reference.num_frames) / frame_rate:.1f} s at once beside this recording. Shorten "
                "`duration_s`, raise `speed`, or see whether `reference_text` is all that is said in the recording."
            )
        rows.append(
            SpeechRow(index, piece, reference, ids, num_frames, durations, inputs.unspoken[index], chunk_index)
        )
    return rows


def unspoken_characters(rows: Sequence[SpeechRow]) -> list[list[str]]:
    """Characters of whole texts that are left out."""
    return list({row.text_index: row.unspoken for row in rows}.values())
