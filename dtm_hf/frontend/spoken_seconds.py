"""The rule of [`DurationPredictor`], for whoever has no diffusers."""

from collections.abc import Mapping
from typing import Any


def spoken_seconds(text: str, config: Mapping[str, Any]) -> float:
    """
    Seconds that a text takes: a sum over its words and characters.

    Args:
        text (`str`): as it is spoken.
        config (`dict`): configuration of a [`DurationPredictor`].
    """
    words, known = text.casefold().split(), config["character_seconds"]
    characters = "".join(words)
    seconds = (known[c] if c in known else config["other_byte_seconds"] * len(c.encode()) for c in characters)
    return config["base_seconds"] + config["word_seconds"] * len(words) + sum(seconds)
