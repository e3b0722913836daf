"""What of a text is spoken. Every token and every measure of length is taken of this, not of what was typed."""

import re
import unicodedata
from collections.abc import Iterator

from dtm_hf.frontend.vocabulary import Vocabulary

# Byte order marks, zero-width blanks, soft hyphens and the variation selectors of emoji: nobody sees them.
_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufe00-\ufe0f\ufeff]")
# Marks that follow a word without a blank.
_CLOSING = ".,:!?)]}%。，：！？、）"


def spoken_text(text: str, tokenizer: Vocabulary) -> tuple[str, list[str]]:
    """
    The part of a text that a model speaks, and the characters that it has to leave out.

    Characters are composed (Unicode's NFC), marks are straightened as the tokenizer straightens them, and any white
    space is one blank. A character that the vocabulary lacks is left out, where F5-TTS reads it as a blank: it makes
    speech neither longer nor shorter. Between two words it leaves a blank, inside a word nothing.

    Args:
        text (`str`): as it was typed.
        tokenizer ([`Vocabulary`]): of the model.

    Returns:
        `tuple[str, list[str]]`: what is spoken, which stays the same if it is given in again; and the distinct
        characters that are not, in order of appearance.
    """
    text = tokenizer.straighten(unicodedata.normalize("NFC", _INVISIBLE.sub("", text)))
    unspoken: dict[str, None] = {}
    said = ""
    for gap, character in _characters_behind_gaps(text, tokenizer):
        unspoken.update(dict.fromkeys(c for c in gap if not c.isspace()))
        inside_word = all(unicodedata.category(c)[0] in "LMN" for c in gap)
        if said and character and gap and (gap[-1].isspace() or not (inside_word or character in _CLOSING)):
            said += " "
        said += character
    return said, list(unspoken)


def _characters_behind_gaps(text: str, tokenizer: Vocabulary) -> Iterator[tuple[str, str]]:
    """Each character that is spoken, with the white space and the unknown ones before it; what is left at the end."""
    gap = ""
    for character in text:
        if character.isspace() or not tokenizer.knows(character):
            gap += character
        else:
            yield gap, character
            gap = ""
    yield gap, ""


def holds_words(text: str) -> bool:
    """Whether there is anything to say but punctuation."""
    return any(character.isalnum() for character in text)
