"""How the text that was to be said and the text that was heard are made comparable, before errors are counted."""

import re
import string
import unicodedata
from collections.abc import Callable
from functools import cache

from dtm_hf.evaluation.extras import EVAL_EXTRA, needs

# "every one" and "everyone", "twenty one" and "twentyone", "p m" and "pm".
_LONGEST_COMPOUND = 3


def marks_dropped(text: str, language: str = "en") -> list[str]:
    """
    Lower-case words without punctuation; in Chinese, characters.

    As `run_asr_wer` of f5_tts/eval/utils_eval.py, which takes punctuation from a table of the package zhon: here it is
    ASCII punctuation and every character that Unicode calls punctuation or a symbol, which holds that table. Marks
    are dropped and not made into spaces: "don't" is "dont", "twenty-one" one word.
    """
    kept = "".join(c for c in text if c not in string.punctuation and unicodedata.category(c)[0] not in "PS")
    if is_chinese(language):
        return [character for character in kept if not character.isspace()]
    return kept.lower().split()


def english(text: str, language: str = "en") -> list[str]:
    """
    Words of an English text however it is written: Whisper's own normaliser (case, punctuation, contractions, British
    spelling, titles, "um"), numbers digit by digit.

    Numbers in digits, because their words can be grouped in many ways: "seven fifteen", "7:15" and "7.15" are all
    "7 one 5", "nineteen eighty four" and "1984" both "one 9 8 4". The digit 1 is written out, as is the pronoun.
    """
    # A curly apostrophe is a mark to the normaliser: "o’clock" would be a zero and a clock.
    words = _whisper_normalizer()(re.sub("[’ʼ]", "'", text.lower()).replace("o'clock", "oclock"))
    words = re.sub(r"\d", lambda digit: f" {digit.group()} ", words)
    words = re.sub(r"[^\w\s$£€¥%]", " ", words)
    return re.sub(r"\b1\b", "one", words).split()


@cache
def _whisper_normalizer() -> Callable[[str], str]:
    with needs(EVAL_EXTRA):
        from whisper_normalizer.english import EnglishTextNormalizer
    return EnglishTextNormalizer()


def as_written(heard: list[str], text: list[str]) -> list[str]:
    """
    `heard` with its compounds written as `text` writes them: "any one" becomes "anyone" where the text has this word,
    and "anyone" becomes "any one" where it has these two. Only what was heard is rewritten, so that an error rate has
    the same denominator whoever speaks.
    """
    words = set(text)
    apart = {
        "".join(text[i : i + n]): text[i : i + n]
        for n in range(2, _LONGEST_COMPOUND + 1)
        for i in range(len(text) - n + 1)
    }
    written, i = [], 0
    while i < len(heard):
        for n in range(_LONGEST_COMPOUND, 1, -1):
            joined = "".join(heard[i : i + n])
            if i + n <= len(heard) and joined in words:
                written.append(joined)
                i += n
                break
        else:
            word = heard[i]
            written += [word] if word in words else apart.get(word, [word])
            i += 1
    return written


def is_chinese(language: str) -> bool:
    """Whether a language code such as `zh` or `zh-CN` is Chinese."""
    return language.lower().replace("_", "-").split("-")[0] == "zh"


def comparable(text: str, heard: str, normalization: str, language: str = "en") -> tuple[list[str], list[str]]:
    """
    What errors are counted in, words or Chinese characters, of the text and of what was heard.

    Raises:
        ValueError: for another `normalization` than those of `NORMALIZATIONS`.
    """
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"`normalization` must be one of {', '.join(NORMALIZATIONS)}, but got {normalization!r}.")
    units, compounds = NORMALIZATIONS[normalization]
    said, understood = units(text, language), units(heard, language)
    return said, as_written(understood, said) if compounds else understood


NORMALIZATIONS: dict[str, tuple[Callable[[str, str], list[str]], bool]] = {
    "f5-tts": (marks_dropped, False),
    "words": (marks_dropped, True),
    "english": (english, True),
}
"""
By name: how a text becomes words, and whether compounds are written alike. `"f5-tts"` is that of the published tables,
`"words"` for recognisers that spell words as the texts do, `"english"` for those that write freely.
"""
