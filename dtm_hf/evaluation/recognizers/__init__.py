"""Who listens to speech: the surface of a recogniser, and the table of those there are."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from dtm_hf.evaluation.recognizers.paraformer import ParaformerRecognizer
from dtm_hf.evaluation.recognizers.vocabulary import VocabularyRecognizer
from dtm_hf.evaluation.recognizers.whisper import WhisperRecognizer

__all__ = [
    "RECOGNIZERS",
    "ParaformerRecognizer",
    "Recognizer",
    "VocabularyRecognizer",
    "WhisperRecognizer",
    "load_recognizer",
]


class Recognizer(Protocol):
    """
    Turns speech into text. What it hears depends on the clip alone: neither on what it heard before nor on chance.
    """

    name: str
    """Model, software and version, as a report names it."""
    normalization: str
    """How its texts are to be compared: a key of [`~dtm_hf.evaluation.metrics.normalization.NORMALIZATIONS`]."""

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        """Text heard in mono samples `(T,)`; an empty string if none."""
        ...

    def unheard(self, text: str) -> list[str]:
        """The words of a text that it can never hear, each once, as it looks them up."""
        ...


def _vocabulary(model: str | None, vocabulary: Sequence[str] | None, language: str) -> Recognizer:
    if model is not None:
        raise ValueError(f"`recognizer` 'pocketsphinx' has one model, but got 'pocketsphinx:{model}'.")
    if not vocabulary:
        raise ValueError("`recognizer` 'pocketsphinx' needs a set with a `vocabulary`, but it has none.")
    return VocabularyRecognizer(vocabulary)


RECOGNIZERS: dict[str, Callable[[str | None, Sequence[str] | None, str], Recognizer]] = {
    "pocketsphinx": _vocabulary,
    "whisper": lambda model, vocabulary, language: WhisperRecognizer(*filter(None, [model]), language=language),
    "paraformer-zh": lambda model, vocabulary, language: ParaformerRecognizer(*filter(None, [model])),
}
"""Constructors by name, from the model (`None`: the default one), the set's vocabulary and its language."""


def load_recognizer(spec: str, vocabulary: Sequence[str] | None = None, language: str = "en") -> Recognizer:
    """
    The recogniser of a name.

    Args:
        spec (`str`):
            A key of `RECOGNIZERS`, where wanted with a model behind a colon: `pocketsphinx`, `whisper:base`,
            `whisper:FOLDER`, `paraformer-zh`.
        vocabulary (sequence of `str`, *optional*): Lower-case words that a closed recogniser is held to.
        language (`str`, defaults to `"en"`): Spoken language.

    Raises:
        ValueError: for another name, a model that cannot be had, or pocketsphinx without a vocabulary.
        ImportError: naming what to install.
    """
    name, _, model = spec.partition(":")
    if name not in RECOGNIZERS:
        raise ValueError(
            f"`recognizer` must be {', '.join(RECOGNIZERS)} or one of them with :MODEL, but got {spec!r}."
        )
    return RECOGNIZERS[name](model or None, vocabulary, language)
