"""Seeded sentences of a domain, in training, validation and test splits that cannot share a sentence."""

import hashlib
import random
import re
from collections.abc import Iterator

from dtm_hf.training.corpus.closed import CLOSED_VOCABULARY, closed_sentence, closed_words
from dtm_hf.training.corpus.wide import wide_sentence, wide_words

__all__ = ["CLOSED_VOCABULARY", "DOMAINS", "SPLITS", "held_out_sentences", "normalize", "split_of", "train_sentences"]

SPLITS = ("train", "validation", "test")

# domain -> (full-template sentence, short word sequence)
DOMAINS = {"closed": (closed_sentence, closed_words), "wide": (wide_sentence, wide_words)}

# Share of the training sentences that are short word sequences instead of full templates.
_WORD_SEQUENCE_SHARE = {"closed": 0.35, "wide": 0.15}

_MIN_HELD_OUT_WORDS = 3
_MAX_DRAWS_WITHOUT_NEWS = 20_000


def normalize(text: str) -> str:
    """Lower-case words separated by single spaces, without punctuation: what two spellings of a sentence share."""
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


def split_of(text: str) -> str:
    """The only split in which `text` may occur: 90/5/5 by a hash of the normalised sentence, whatever the seed."""
    bucket = int.from_bytes(hashlib.sha256(normalize(text).encode()).digest()[:8], "big") % 100
    return "train" if bucket < 90 else "validation" if bucket < 95 else "test"


def train_sentences(domain: str, seed: int, stream: int = 0) -> Iterator[str]:
    """Endless training sentences of `domain`; each (`seed`, `stream`) pair is a sequence of its own.

    Raises:
        ValueError: if `domain` is unknown.
    """
    template, word_sequence = _generators(domain)
    rng = random.Random(f"{domain}/train/{seed}/{stream}")
    while True:
        maker = word_sequence if rng.random() < _WORD_SEQUENCE_SHARE[domain] else template
        text = _finish(maker(rng))
        if split_of(text) == "train":
            yield text


def held_out_sentences(domain: str, split: str, seed: int) -> Iterator[str]:
    """Distinct full-template sentences of at least three words, all of which hash to `split`.

    Raises:
        ValueError: if `domain` is unknown, `split` is not "validation" or "test", or the domain has no more sentences.
    """
    template, _ = _generators(domain)
    if split not in SPLITS[1:]:
        raise ValueError(f"`split` must be one of {SPLITS[1:]}, but got {split!r}")
    rng = random.Random(f"{domain}/{split}/{seed}")
    seen: set[str] = set()
    draws = 0
    while draws < _MAX_DRAWS_WITHOUT_NEWS:
        draws += 1
        text = _finish(template(rng))
        key = normalize(text)
        if split_of(text) != split or key in seen or len(key.split()) < _MIN_HELD_OUT_WORDS:
            continue
        draws = 0
        seen.add(key)
        yield text
    raise ValueError(f"`domain` {domain!r} has no more than about {len(seen)} {split} sentences: ask for fewer")


def _generators(domain: str):
    if domain not in DOMAINS:
        raise ValueError(f"`domain` must be one of {tuple(DOMAINS)}, but got {domain!r}")
    return DOMAINS[domain]


def _finish(text: str) -> str:
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".?!" else text + "."
