"""The rules of [`TextNormalizer`], for whoever has no diffusers."""

import logging
import re

logger = logging.getLogger(__name__)

LANGUAGES = ("en", "zh", "ja")
# Written as a range of numbers is, and read digit by digit.
_TELEPHONE = re.compile(r"(?<![\w-])(?:\+?1?[-. ]?\(?\d{3}\)?[-. ])?\d{3}-\d{4}(?![\w-])")
# The grammars say "thousand two hundred" of it.
_A_THOUSAND = re.compile(r"(?<![\w,.$£€])1,(?=\d{3}\b(?!,))")
# Digits, and signs that are no punctuation.
_WRITTEN = re.compile(r"\d|[^\w\s.,!?;:'\"-]")
_SHOUTED = re.compile(r"[A-Z]{5,}")
_DIGITS = "zero one two three four five six seven eight nine".split()


class WrittenWords:
    """
    Says what is written in digits, signs and capitals: see [`TextNormalizer`].

    Args:
        language (`str`): one of `LANGUAGES`.
    """

    def __init__(self, language: str):
        self.language = language
        self._grammars = None

    def __call__(self, text: str) -> str:
        """`text` as it is said."""
        english = self.language == "en"
        if english:
            text = _TELEPHONE.sub(_digit_by_digit, text)
            text = _A_THOUSAND.sub("one 1,", text)
            text = text.capitalize() if text.isupper() and len(text) > 4 else _SHOUTED.sub(_in_lower_case, text)
        text = " ".join(text.split())
        if not _WRITTEN.search(text):
            return text
        if self._grammars is None:
            try:
                from wetext import Normalizer
            except ImportError:
                if re.search(r"\d", text):
                    logger.warning(
                        "`text` holds numbers, and what would say them in words is missing: `pip install "
                        "dtm-hf[normalize]`, or write them out."
                    )
                return text
            self._grammars = Normalizer(lang=self.language, operator="tn")
        said = self._said(text)
        # A text that the grammars cannot read is said word by word, and what they cannot read of that stays.
        return " ".join(self._said(word) or word for word in text.split()) if said is None else said

    def _said(self, text: str) -> str | None:
        try:
            return self._grammars.normalize(text) if _WRITTEN.search(text) else text
        except AssertionError:
            return None


def _digit_by_digit(match: re.Match) -> str:
    groups = re.findall(r"\d+", match.group())
    return ", ".join(" ".join(_DIGITS[int(digit)] for digit in group) for group in groups)


def _in_lower_case(match: re.Match) -> str:
    return match.group().lower()
