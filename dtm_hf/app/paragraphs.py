"""Long text in several voices: paragraphs that begin with the name of a voice in brackets."""

import re
from collections.abc import Collection

MAX_PARAGRAPHS = 500
_MARK = re.compile(r"\[([^\[\]\n]{1,64})\]")


def split_paragraphs(text: str, voices: Collection[str], default: str) -> list[tuple[str, str]]:
    """
    Pairs of a voice and what it says. `[name]` holds until the next one; a text may begin without. An empty line ends
    a paragraph and keeps the voice.

    Raises:
        ValueError: for a name that is no voice, for nothing to say, and for too many paragraphs.
    """
    pieces = _MARK.split(text)
    pairs = [(default, pieces[0]), *zip(pieces[1::2], pieces[2::2], strict=True)]
    for name, _ in pairs[1:]:
        if name.strip() not in voices:
            raise ValueError(f"`voice` in brackets must be one of {sorted(voices)}, but got {name.strip()!r}.")
    paragraphs = [
        (name.strip(), " ".join(part.split()))
        for name, said in pairs
        for part in re.split(r"\n\s*\n", said)
        if part.strip()
    ]
    if not paragraphs:
        raise ValueError("`text` must not be empty.")
    if len(paragraphs) > MAX_PARAGRAPHS:
        raise ValueError(f"`text` must have at most {MAX_PARAGRAPHS} paragraphs, but got {len(paragraphs)}.")
    return paragraphs
