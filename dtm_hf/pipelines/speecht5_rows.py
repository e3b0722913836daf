"""What a SpeechT5 is to say and in whose voice: texts checked, cut, tokenized; speakers found."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch

from dtm_hf.frontend.audio import read_speech
from dtm_hf.frontend.voice_embedding import VOICE_RATE, VoiceEncoder
from dtm_hf.pipelines.chunking import chunk_text
from dtm_hf.reading import show
from dtm_hf.speecht5.speakers import SpeakerTable, check_vector

# Of the vocabulary of SpeechT5: beginning of a sequence, padding, end of a sequence, and what is none of its tokens.
PAD_ID, END_ID, FIRST_ID = 1, 2, 3
# Embeddings of speakers have some hundreds of numbers.
_MAX_EMBEDDING_BYTES = 2**20


@dataclass(frozen=True, eq=False)
class SpeechT5Row:
    """
    One chunk of a text.

    Args:
        text_index (`int`): which text of the call.
        text (`str`): of the chunk.
        ids (`list[int]`): tokens, the end of the sequence among them.
        speaker (`torch.Tensor` of shape `(E,)`): embedding of the speaker.
        unspoken (`list[str]`): characters of its text that the vocabulary lacks.
        chunk_index (`int`, defaults to 0): which of the chunks of its text.
    """

    text_index: int
    text: str
    ids: list[int]
    speaker: torch.Tensor
    unspoken: list[str] = field(default_factory=list)
    chunk_index: int = 0


class SpeechT5Text:
    """
    The tokenizer of a SpeechT5, of either kind, as texts are checked and cut by it.

    Args:
        tokenizer ([`F5Tokenizer`] or [`~transformers.SpeechT5Tokenizer`]): characters, whose ids are moved behind the
            special tokens; or the sentencepiece of the official checkpoints.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.is_sentencepiece = not hasattr(tokenizer, "ids")
        self.words = None if self.is_sentencepiece else tokenizer.words
        self._known: dict[str, bool] = {}

    @property
    def vocab_size(self) -> int:
        """Of the network: special tokens among them."""
        return len(self.tokenizer) if self.is_sentencepiece else self.tokenizer.vocab_size + FIRST_ID

    def ids(self, text: str) -> list[int]:
        """Tokens of a text, and the end of the sequence."""
        if self.is_sentencepiece:
            return self.tokenizer(text).input_ids
        return [*(token + FIRST_ID for token in self.tokenizer.ids(text)), END_ID]

    def knows(self, character: str) -> bool:
        """Whether there is a token for a character."""
        if not self.is_sentencepiece:
            return self.tokenizer.knows(character)
        if character not in self._known:
            ids = self.tokenizer(character, add_special_tokens=False).input_ids
            self._known[character] = self.tokenizer.unk_token_id not in ids
        return self._known[character]

    def straighten(self, text: str) -> str:
        """As of [`~dtm_hf.frontend.vocabulary.Vocabulary`]."""
        return text if self.is_sentencepiece else self.tokenizer.straighten(text)

    def unknown_words(self, text: str) -> list[str]:
        """As of [`~dtm_hf.frontend.vocabulary.Vocabulary`]."""
        return [] if self.is_sentencepiece else self.tokenizer.unknown_words(text)


def divide_speecht5(
    texts: Sequence[tuple[str, list[str]]], speakers: Sequence[torch.Tensor], tokenizer: SpeechT5Text, most: int
) -> list[SpeechT5Row]:
    """
    Cut texts into chunks of at most `most` tokens.

    Args:
        texts (`list[tuple[str, list[str]]]`): what is spoken of each, and what is not.
        speakers (`list[torch.Tensor]`): one a text.
        tokenizer ([`SpeechT5Text`]): to measure by.
        most (`int`): positions that the encoder has.

    Raises:
        ValueError: for what cannot be cut so short.
    """
    rows = []
    for index, ((text, unspoken), speaker) in enumerate(zip(texts, speakers, strict=True)):
        # A clause may be a quarter longer than is wished for.
        for k, piece in enumerate(chunk_text(text, int(most / 1.25), lambda part: len(tokenizer.ids(part)))):
            ids = tokenizer.ids(piece)
            if len(ids) > most:
                raise ValueError(
                    f"`text` {show(piece)} cannot be cut into parts of at most the {most} tokens that the model reads "
                    f"at once, but has {len(ids)}."
                )
            rows.append(SpeechT5Row(index, piece, ids, speaker, unspoken, k))
    return rows


def find_speakers(
    table: SpeakerTable | None, speaker: Any, reference_audio: Any, size: int, count: int
) -> list[torch.Tensor]:
    """
    The embedding of the speaker of each text.

    Args:
        table ([`SpeakerTable`], *optional*): of the pipeline.
        speaker: the name of one of the table, the path of an `.npy` file, or a tensor or an array `(E,)`; or a list
            with one a text. The first of the table by default.
        reference_audio: in its place a recording to speak like, or a list with one a text.
        size (`int`): E of the model.
        count (`int`): how many texts there are.

    Raises:
        TypeError, ValueError, FileNotFoundError: for what gives no speaker.
    """
    if speaker is not None and reference_audio is not None:
        raise ValueError("`speaker` and `reference_audio` exclude each other.")
    name = "speaker" if reference_audio is None else "reference_audio"
    given = speaker if reference_audio is None else reference_audio
    if isinstance(given, list) and len(given) != count:
        raise ValueError(f"`{name}` must be single or have one entry for each of {count} texts, but got {len(given)}.")
    given = given if isinstance(given, list) else [given] * count
    find = _of_recording if reference_audio is not None else _of_name
    found: dict[int, torch.Tensor] = {}
    for one in given:
        if id(one) not in found:
            found[id(one)] = find(table, one)
            if len(found[id(one)]) != size:
                raise ValueError(
                    f"`{name}` must be an embedding of the {size} numbers that the model was trained with, but has "
                    f"{len(found[id(one)])}."
                )
    return [found[id(one)] for one in given]


def _of_name(table: SpeakerTable | None, speaker: Any) -> torch.Tensor:
    if isinstance(speaker, torch.Tensor | np.ndarray):
        return check_vector("speaker", torch.as_tensor(speaker))
    known = list(table.vectors) if table is not None else []
    if speaker is None and known:
        return table.vectors[known[0]]
    if isinstance(speaker, str) and speaker in known:
        return table.vectors[speaker]
    if isinstance(speaker, str | os.PathLike) and str(speaker).endswith(".npy"):
        return _read_embedding(Path(speaker))
    voices = f"one of {known[:20]}, " if known else ""
    raise ValueError(f"`speaker` must be {voices}an embedding or the path of an .npy file, but got {show(speaker)}.")


def _read_embedding(path: Path) -> torch.Tensor:
    if not path.is_file():
        raise FileNotFoundError(f"`speaker` {str(path)!r} is no existing file.")
    if path.stat().st_size > _MAX_EMBEDDING_BYTES:
        raise ValueError(f"`speaker` {str(path)!r} must be an embedding, but has {path.stat().st_size:,} bytes.")
    try:
        array = np.load(path, allow_pickle=False)
        return check_vector("speaker", torch.from_numpy(np.asarray(array, dtype=np.float32)))
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"`speaker` {str(path)!r} cannot be read as an embedding: {error}") from error


def _of_recording(table: SpeakerTable | None, recording: Any) -> torch.Tensor:
    if table is None or table.encoder is None:
        raise ValueError(
            "`reference_audio` cannot be used: the speakers of this model are embeddings that something else made "
            "(the official checkpoints take x-vectors of speechbrain). Give one as `speaker`."
        )
    speech = read_speech(recording)
    waveform = soxr.resample(speech.samples, speech.rate, VOICE_RATE)
    vector = VoiceEncoder()(waveform)
    if vector is None:
        raise ValueError(f"`reference_audio` must hold a voice, but there is none in {show(recording)}.")
    return torch.from_numpy(vector)


def pad_ids(rows: Sequence[SpeechT5Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens `(B, L)`, padded, and their mask `(B, L)` of ones and zeros."""
    lengths = torch.tensor([len(row.ids) for row in rows])
    mask = (torch.arange(int(lengths.max()))[None] < lengths[:, None]).long()
    ids = torch.full(mask.shape, PAD_ID)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = torch.tensor(row.ids)
    return ids, mask
