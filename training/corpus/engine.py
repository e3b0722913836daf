"""What a corpus is spoken by: text and a voice in, a waveform out."""

from typing import Protocol

import numpy as np


class MissingProgramError(RuntimeError):
    """A speech synthesiser is not installed."""


class Unspeakable(ValueError):
    """A sentence that an engine cannot say: the corpus goes on without it."""


class Engine(Protocol):
    """What a corpus is spoken by. An instance belongs to one process and is made by
    [`load_engine`][dtm_hf.training.corpus.engines.load_engine]."""

    voices: tuple[str, ...]
    """The names that `speak` takes, which become the corpus's speakers; empty in the class where a model decides."""

    def require(self) -> None:
        """
        Raises:
            MissingProgramError: if the synthesiser is not installed; the message says what to install.
        """

    def speak(self, text: str, voice: str, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """
        The waveform, float32 `(samples,)` at the engine's own level, and its rate in Hz.

        Args:
            text (`str`): A sentence.
            voice (`str`): One of `voices`.
            rng (`np.random.Generator`): Decides whatever the engine can vary; one that varies nothing draws nothing.

        Raises:
            ValueError: if `voice` is unknown.
            Unspeakable: if `text` cannot be said.
            MissingProgramError: if the synthesiser is not installed.
            RuntimeError: if it fails; the message holds what it said.
        """

    def about(self) -> dict[str, str]:
        """`version`, `licence` and `package` of the synthesiser, for the corpus's card."""


def check_voice(engine: Engine, voice: str) -> None:
    """
    Raises:
        ValueError: if `voice` is none of the engine's.
    """
    if voice not in engine.voices:
        raise ValueError(f"`voice` must be one of {engine.voices}, but got {voice!r}")
