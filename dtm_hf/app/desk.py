"""What the page asks to speak: models by name, voices by name, and the errors in the page's words."""

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import gradio
import numpy as np

from dtm_hf.frontend.audio import read_speech
from dtm_hf.frontend.voices import Recording
from dtm_hf.pipelines.streaming import Fader
from dtm_hf.runtime.batcher import Batcher
from dtm_hf.serving.encoding import check_finite

logger = logging.getLogger(__name__)

MAX_CHARACTERS = 20_000
MAX_STEPS = 64
# A queue that is longer than this is not waited for.
_TIMEOUT_SECONDS = 600
# Arguments of a pipeline by the labels that they have on the page.
_LABELS = {
    "text": "Text",
    "reference_audio": "Recording",
    "reference_text": "What is said in it",
    "num_inference_steps": "Steps",
    "num_head_steps": "Head calls",
    "guidance_scale": "Guidance",
    "speed": "Speed",
    "seed": "Seed",
    "voice": "Voice",
}


@dataclass(frozen=True)
class Voice:
    """A recording and what is said in it, wherever they are from."""

    audio: str
    text: str


@dataclass(frozen=True)
class Settings:
    """How to speak; `None` is the model's own."""

    steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    speed: float = 1.0

    @property
    def sampling(self) -> dict[str, Any]:
        """As arguments of a pipeline."""
        return {"num_inference_steps": self.steps, "guidance_scale": self.guidance}


@dataclass
class Tally:
    """What speaking cost so far."""

    started: float = field(default_factory=time.perf_counter)
    first: float | None = None
    seconds: float = 0.0
    chunks: int = 0
    passes: int = 0
    unspoken: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        took = time.perf_counter() - self.started
        told = (
            f"{self.seconds:.2f} s of speech in {took:.2f} s (real-time factor {took / max(self.seconds, 1e-9):.2f}), "
            f"the first of it after {self.first or took:.2f} s; {self.passes} passes in {self.chunks} "
            f"{'chunk' if self.chunks == 1 else 'chunks'}"
        )
        return told + (f"; left out: {' '.join(self.unspoken)}" if self.unspoken else "")


@dataclass(frozen=True)
class Desk:
    """
    Who speaks for the page.

    Args:
        models (`dict` of [`Batcher`]): by the names of the list; the first is chosen at first.
        voices (`dict` of [`Recording`]): by name.
        hear (`Callable`, *optional*): what is said in samples `(T,)` at a rate in Hz: the recogniser's `transcribe`.
    """

    models: dict[str, Batcher]
    voices: dict[str, Recording]
    hear: Callable[[np.ndarray, int], str] | None = None

    def voice(self, name: str | None, recording: str | None = None, said: str | None = None) -> Voice:
        """
        A recording of the user's if there is one, else a packaged voice.

        Raises:
            ValueError: for a recording without its text, and for an unknown name.
        """
        if recording:
            if not (said or "").strip():
                raise ValueError("`reference_text` must not be empty: what is said in the recording.")
            return Voice(recording, said)
        if (said or "").strip():
            raise ValueError("`reference_audio` is missing: the recording that the text beside it belongs to.")
        if name not in self.voices:
            raise ValueError(f"`voice` must be one of {sorted(self.voices)}, but got {name!r}.")
        return Voice(str(self.voices[name].audio), self.voices[name].text)

    def stream(self, model: str, text: str, voice: Voice, settings: Settings, tally: Tally) -> Iterator[np.ndarray]:
        """
        Samples `(T_i,)` sentence by sentence; what they cost is added to the `tally`.

        Raises:
            TypeError, ValueError, FileNotFoundError: for what cannot be spoken.
        """
        batcher = self.batcher(model)
        speaker, fader = batcher.speaker, Fader(batcher.speaker.sampling_rate)
        if len(text or "") > MAX_CHARACTERS:
            raise ValueError(f"`text` must be at most {MAX_CHARACTERS} characters, but got {len(text)}.")
        check_settings(settings)
        passes = speaker.passes(**settings.sampling)
        generator = speaker.noise(settings.seed)
        for row in speaker.stream_rows(text, voice.audio, voice.text, settings.speed, generator):
            asked = batcher.submit_rows([row], generator, **settings.sampling)
            try:
                (wave,) = asked.result(_TIMEOUT_SECONDS)
            finally:
                # A page that was closed while it waited is not spoken for.
                asked.cancel()
            check_finite(wave)
            tally.first = tally.first or time.perf_counter() - tally.started
            tally.chunks, tally.passes = tally.chunks + 1, tally.passes + passes
            tally.unspoken = list(dict.fromkeys([*tally.unspoken, *row.unspoken]))
            yield from self._counted(fader.add(wave), tally, speaker.sampling_rate)
        yield from self._counted(fader.end(), tally, speaker.sampling_rate)

    def batcher(self, model: str) -> Batcher:
        """The model of a name in the list."""
        if model not in self.models:
            raise ValueError(f"`model` must be one of {list(self.models)}, but got {model!r}.")
        return self.models[model]

    @staticmethod
    def _counted(wave: np.ndarray, tally: Tally, rate: int) -> Iterator[np.ndarray]:
        if len(wave):
            tally.seconds += len(wave) / rate
            yield wave

    def transcribe(self, recording: str) -> str:
        """What the recogniser hears in a file; nothing without one."""
        if self.hear is None:
            return ""
        speech = read_speech(recording)
        return self.hear(speech.samples, speech.rate).strip()


def check_settings(settings: Settings) -> None:
    """
    Raises:
        ValueError: for steps beyond the page's bound, and for a seed that is none.
    """
    if settings.steps is not None and not 1 <= settings.steps <= MAX_STEPS:
        raise ValueError(f"`num_inference_steps` must be from 1 to {MAX_STEPS}, but got {settings.steps}.")
    if not 0 <= settings.seed < 2**63:
        raise ValueError(f"`seed` must be a whole number from 0 on, but got {settings.seed}.")


def in_page_words(error: BaseException) -> str:
    """A message with the arguments as the page labels them."""
    message = " ".join(str(error).split())
    return re.sub(r"`(\w+)`", lambda found: f"“{_LABELS.get(found[1], found[1])}”", message)


@contextmanager
def told_on_the_page() -> Iterator[None]:
    """What went wrong becomes the sentence that the page shows; a fault of its own goes to the log."""
    try:
        yield
    except gradio.Error:
        raise
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise gradio.Error(in_page_words(error), duration=None, print_exception=False) from error
    except TimeoutError as error:
        message = f"It was not spoken within {_TIMEOUT_SECONDS} s."
        raise gradio.Error(message, duration=None, print_exception=False) from error
    except Exception as error:
        logger.exception("the page failed")
        message = "The page failed; its log says why."
        raise gradio.Error(message, duration=None, print_exception=False) from error
