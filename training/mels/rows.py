"""Utterances with who speaks them."""

import hashlib
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from dtm_hf.training.config.arguments import DataArguments, SourceArguments
from dtm_hf.training.data.formats import Row
from dtm_hf.training.data.loader import open_sources
from dtm_hf.training.data.rows import BadRow
from dtm_hf.training.data.sources import Source
from dtm_hf.training.speech.rows import Utterance, UtteranceMaker

# Who speaks where a source does not say.
NOBODY = "default"
_MOST_SPEAKERS = 100_000


@dataclass
class VoicedUtterance(Utterance):
    """One training sample and who speaks it."""

    speaker: str = NOBODY


class VoicedMaker(UtteranceMaker):
    """
    As [`UtteranceMaker`], with speakers.

    Args:
        speakers (collection of `str`): whose rows can be used.
        max_tokens (`int`): of a text at most.
    """

    def __init__(
        self, arguments: DataArguments, tokenizer, feature_extractor, speakers: Collection[str], max_tokens: int
    ):
        super().__init__(arguments, tokenizer, feature_extractor)
        self.speakers, self.max_tokens = frozenset(speakers), max_tokens

    def columns(self, source: SourceArguments) -> dict[str, str | None]:
        return source.columns

    def make(self, source: Source, row: Row) -> VoicedUtterance:
        """As of [`UtteranceMaker`]; BadRow also for a speaker without an embedding, and a text that is too long."""
        speaker = source.label(row, "speaker") or NOBODY
        if speaker not in self.speakers:
            raise BadRow("speaker without an embedding", speaker)
        made = super().make(source, row)
        if len(made.tokens) > self.max_tokens:
            raise BadRow("text of more tokens than the encoder has positions", f"{len(made.tokens)} tokens")
        return VoicedUtterance(made.waveform, made.tokens, made.prompt_samples, speaker)

    def join(self, first: VoicedUtterance, second: VoicedUtterance) -> VoicedUtterance:
        joined = super().join(first, second)
        return VoicedUtterance(joined.waveform, joined.tokens, joined.prompt_samples, second.speaker)

    def collate(self, samples: list[VoicedUtterance]) -> dict[str, Any]:
        """As of [`UtteranceMaker`], and `speakers`, a list of names."""
        return super().collate(samples) | {"speakers": [sample.speaker for sample in samples]}


def find_speakers(arguments: DataArguments) -> list[str]:
    """
    Names of the speakers of the training split, in order.

    Raises:
        ValueError: if a source, its split or a column is not there, or there are too many to be speakers.
    """
    sources = open_sources(arguments, arguments.train_split, _labels)
    found: set[str] = set()
    for source in sources:
        if not source.arguments.speaker_column:
            found.add(NOBODY)
            continue
        for row in source.readable_rows():
            with suppress(BadRow):
                found.add(source.label(row, "speaker") or NOBODY)
    if len(found) > _MOST_SPEAKERS:
        raise ValueError(f"`speaker_column` must name speakers, but holds {len(found):,} values.")
    return sorted(found)


def _labels(source: SourceArguments) -> dict[str, str | None]:
    return {"audio": None, "text": source.text_column, "speaker": source.speaker_column}


def vector_of_name(name: str, size: int) -> torch.Tensor:
    """A vector `(E,)` of length 1 that a name decides: any two are nearly at right angles."""
    digest = hashlib.blake2b(name.encode(), digest_size=7).digest()
    vector = torch.randn(size, generator=torch.Generator().manual_seed(int.from_bytes(digest)))
    return vector / vector.norm()
