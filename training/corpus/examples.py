"""Sentences with many words in few: the examples in the glosses of WordNet, a line each for `build --sentences`."""

import hashlib
import re
from pathlib import Path

from dtm_hf.training.corpus.sentences import normalize

_FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
_QUOTED = re.compile(r'"([^"]+)"')
# As it is said: no digits, no dots that stand for what is left out, no dashes.
_SPEAKABLE = re.compile(r"[A-Za-z][A-Za-z ,.'?!;:-]+")
_FEWEST_WORDS, _MOST_WORDS = 4, 14


def example_sentences(folder: Path, number: int) -> list[str]:
    """
    Distinct examples of 4 to 14 words, in an order that a hash decides.

    Args:
        folder (`Path`): WordNet's database, `data.noun` and so on (`apt-get install wordnet-base` puts it into
            `/usr/share/wordnet`).
        number (`int`): sentences at most.

    Raises:
        ValueError: if `folder` holds no such files.
    """
    if missing := [name for name in _FILES if not (folder / name).is_file()]:
        raise ValueError(f"`wordnet` must be a folder with {', '.join(_FILES)}, but {folder} has no {missing[0]}")
    found: dict[str, str] = {}
    for name in _FILES:
        for line in (folder / name).read_text(encoding="latin-1").splitlines():
            for quoted in _QUOTED.findall(line.partition("|")[2]):
                text = quoted.strip().rstrip(";,").strip()
                words = len(text.split())
                if not _SPEAKABLE.fullmatch(text) or "--" in text or "..." in text:
                    continue
                if not _FEWEST_WORDS <= words <= _MOST_WORDS:
                    continue
                text = text[0].upper() + text[1:]
                found.setdefault(normalize(text), text if text[-1] in ".?!" else text + ".")
    return sorted(found.values(), key=lambda text: hashlib.sha256(text.encode()).digest())[:number]
