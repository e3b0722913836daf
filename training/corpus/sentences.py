"""Sentences in training, validation and test splits that cannot share one: drawn from a grammar, or from a list."""

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from dtm_hf.training.corpus.closed import CLOSED_VOCABULARY, closed_sentence, closed_words

__all__ = [
    "CLOSED_VOCABULARY",
    "SPLITS",
    "held_out_sentences",
    "normalize",
    "read_sentences",
    "split_of",
    "train_sentences",
]

SPLITS = ("train", "validation", "test")

# Share of the training sentences that are short word sequences instead of full templates.
_WORD_SEQUENCE_SHARE = 0.35

_MIN_HELD_OUT_WORDS = 3
_MAX_DRAWS_WITHOUT_NEWS = 20_000


def normalize(text: str) -> str:
    """Lower-case words separated by single spaces, without punctuation: what two spellings of a sentence share."""
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


def split_of(text: str) -> str:
    """The only split in which `text` may occur: 90/5/5 by a hash of the normalised sentence, whatever the seed."""
    bucket = int.from_bytes(hashlib.sha256(normalize(text).encode()).digest()[:8], "big") % 100
    return "train" if bucket < 90 else "validation" if bucket < 95 else "test"


def read_sentences(paths: Sequence[Path]) -> tuple[str, ...]:
    """
    The distinct sentences of text files in UTF-8, one a line, in the order of the files; `id|` before one is dropped.

    Raises:
        ValueError: if a file is not text or holds no sentence.
        OSError: if a file cannot be read.
    """
    found: dict[str, str] = {}
    for path in paths:
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"`sentences` must be text in UTF-8, but {path} is not") from error
        texts = [line.rpartition("|")[2].strip() for line in lines]
        texts = [text for text in texts if normalize(text)]
        if not texts:
            raise ValueError(f"`sentences` must hold a sentence a line, but {path} holds none")
        for text in texts:
            found.setdefault(normalize(text), text)
    return tuple(found.values())


def train_sentences(seed: int, stream: int = 0) -> Iterator[str]:
    """Endless training sentences of the closed domain; each (`seed`, `stream`) pair is a sequence of its own."""
    rng = random.Random(f"closed/train/{seed}/{stream}")
    while True:
        maker = closed_words if rng.random() < _WORD_SEQUENCE_SHARE else closed_sentence
        text = _finish(maker(rng))
        if split_of(text) == "train":
            yield text


def held_out_sentences(split: str, seed: int) -> Iterator[str]:
    """Distinct closed sentences of a full template and at least three words, all of which hash to `split`.

    Raises:
        ValueError: if `split` is not "validation" or "test", or there are no more sentences.
    """
    if split not in SPLITS[1:]:
        raise ValueError(f"`split` must be one of {SPLITS[1:]}, but got {split!r}")
    rng = random.Random(f"closed/{split}/{seed}")
    seen: set[str] = set()
    draws = 0
    while draws < _MAX_DRAWS_WITHOUT_NEWS:
        draws += 1
        text = _finish(closed_sentence(rng))
        key = normalize(text)
        if split_of(text) != split or key in seen or len(key.split()) < _MIN_HELD_OUT_WORDS:
            continue
        draws = 0
        seen.add(key)
        yield text
    raise ValueError(f"the closed domain has no more than about {len(seen)} {split} sentences: ask for fewer")


def _finish(text: str) -> str:
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".?!" else text + "."
