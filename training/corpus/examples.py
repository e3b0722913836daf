"""What WordNet gives to read aloud, a line each for `build --sentences`: examples of its glosses, words and names."""

import hashlib
import re
from pathlib import Path

from dtm_hf.training.corpus.sentences import normalize

_FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
_QUOTED = re.compile(r'"([^"]+)"')
# As it is said: no digits, no dots that stand for what is left out, no dashes.
_SPEAKABLE = re.compile(r"[A-Za-z][A-Za-z ,.'?!;:-]+")
_FEWEST_WORDS, _MOST_WORDS = 4, 14

# Numbers of the lexicographer files of places and of people.
_PLACES, _PEOPLE = "15", "18"
_NAME = re.compile(r"(?:[A-Z][a-z]+)(?:_[A-Z][a-z]+){0,2}")
_CARRIERS = {
    _PLACES: ("{}.", "I have never been to {}.", "How far is it from here to {}?", "The flight from {} is late."),
    _PEOPLE: ("{}.", "My name is {}.", "Is {} at home?", "This is a letter from {}."),
}


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
    found: dict[str, str] = {}
    for lines in _database(folder).values():
        for line in lines:
            for quoted in _QUOTED.findall(line.partition("|")[2]):
                text = quoted.strip().rstrip(";,").strip()
                words = len(text.split())
                if not _SPEAKABLE.fullmatch(text) or "--" in text or "..." in text:
                    continue
                if not _FEWEST_WORDS <= words <= _MOST_WORDS:
                    continue
                text = text[0].upper() + text[1:]
                found.setdefault(normalize(text), text if text[-1] in ".?!" else text + ".")
    return sorted(found.values(), key=_hash)[:number]


def words_and_names(folder: Path, number: int) -> list[str]:
    """
    Nouns, verbs, adjectives and adverbs all by themselves, and the names of people and places, alone and in a short
    sentence: a third of the lines each, in an order that a hash decides. Arguments and errors as of
    [`example_sentences`].
    """
    words: dict[str, str] = {}
    names: dict[str, dict[str, str]] = {_PLACES: {}, _PEOPLE: {}}
    for line in (line for lines in _database(folder).values() for line in lines if line[:1].isdigit()):
        # Of each synset the first word, which is the most frequent one.
        _, file, _, _, word, *_ = line.split(" ")
        if re.fullmatch("[a-z]{3,12}", word):
            words.setdefault(word, f"{word.capitalize()}.")
        elif file in names and " @i " in line and _NAME.fullmatch(word):
            name = word.replace("_", " ")
            names[file].setdefault(name, _CARRIERS[file][_hash(name)[0] % len(_CARRIERS[file])].format(name))
    kinds = [sorted(kind.values(), key=_hash) for kind in (words, *names.values())]
    return [text for texts in zip(*kinds, strict=False) for text in texts][:number]


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _database(folder: Path) -> dict[str, list[str]]:
    if missing := [name for name in _FILES if not (folder / name).is_file()]:
        raise ValueError(f"`wordnet` must be a folder with {', '.join(_FILES)}, but {folder} has no {missing[0]}")
    return {name: (folder / name).read_text(encoding="latin-1").splitlines() for name in _FILES}
