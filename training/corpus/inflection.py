"""Regular English inflection, with the irregular forms given by the word lists."""

from dataclasses import dataclass

_VOWELS = "aeiou"


@dataclass(frozen=True)
class Verb:
    """The five forms of a verb."""

    base: str
    third: str
    past: str
    participle: str
    gerund: str


def plural(noun: str) -> str:
    """Plural of a regular noun: "box" -> "boxes", "city" -> "cities", "day" -> "days"."""
    if noun.endswith("y") and noun[-2] not in _VOWELS:
        return noun[:-1] + "ies"
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + ("zes" if noun.endswith("iz") else "es")
    return noun + "s"


def article(phrase: str) -> str:
    """The indefinite article that suits the sound `phrase` begins with."""
    word = phrase.split()[0].lower()
    if word.startswith(("uni", "use", "usu", "eu", "one")):
        return "a"
    if word.startswith(("hour", "honest", "herb")):
        return "an"
    return "an" if word[0] in _VOWELS else "a"


def conjugate(entry: str, irregular: dict[str, tuple[str, str]]) -> Verb:
    """All forms of a verb.

    Args:
        entry (`str`): the base form; a final "+" says that its last consonant doubles ("prefer+" -> "preferred").
        irregular (`dict[str, tuple[str, str]]`): base form -> (past, past participle).
    """
    base = entry.removesuffix("+")
    stem = base + base[-1] if entry.endswith("+") or _doubles(base) else base
    if base.endswith("ie"):
        gerund = base[:-2] + "ying"
    elif base.endswith("e") and not base.endswith(("ee", "ye", "oe")):
        gerund = base[:-1] + "ing"
    else:
        gerund = stem + "ing"
    if base in irregular:
        past, participle = irregular[base]
    else:
        if base.endswith("e"):
            past = base + "d"
        elif base.endswith("y") and base[-2] not in _VOWELS:
            past = base[:-1] + "ied"
        else:
            past = stem + "ed"
        participle = past
    third = base + "es" if base.endswith("o") else plural(base)
    return Verb(base, third, past, participle, gerund)


def _doubles(base: str) -> bool:
    """One syllable that ends in consonant, vowel, consonant: "stop", not "rain", "fix" or "visit"."""
    word = base.replace("qu", "qw")
    if len(word) < 3 or word[-1] in _VOWELS + "wxy" or word[-2] not in _VOWELS or word[-3] in _VOWELS:
        return False
    return sum(letter in _VOWELS + "y" for letter in word) == 1
