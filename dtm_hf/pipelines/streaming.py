"""Speech while it is made: a text sentence by sentence, its waveforms joined as they come. No torch in here."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from dtm_hf.pipelines.chunking import CROSS_FADE_SECONDS, MAX_TOTAL_SECONDS, SENTENCE_END, chunk_text, longest_chunk
from dtm_hf.pipelines.proportional_timing import Timing
from dtm_hf.pipelines.rows import Reference, SpeechInputs

_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")
# What the first chunk may last, about: it is what a listener waits for.
FIRST_SECONDS = 1.5


def stream_chunks(text: str, longest: float, first: float, measure: Callable[[str], float]) -> list[str]:
    """
    A text in sentences, and of the first no more than its first clause, if it is long.

    Args:
        text (`str`): what is to be said.
        longest (`float`): what a chunk may measure.
        first (`float`): what the first sentence may measure to stay whole.
        measure (`Callable`): how long a text takes.
    """
    sentences = [sentence for sentence in _END.split(text) if sentence.strip()]
    parts = list(sentences)
    if measure(parts[0]) > first:
        begin = SENTENCE_END.split(parts[0], maxsplit=1)[0]
        parts[:1] = filter(None, (begin, parts[0][len(begin) :].strip()))
    return [piece for part in parts for piece in chunk_text(part, longest, measure)]


def one_by_one(
    inputs: SpeechInputs, reference: Reference, timing: Timing, speed: float, max_seconds: float | None = None
) -> Iterator[SpeechInputs]:
    """
    What a call asks for, as many calls that follow each other.

    Args:
        inputs ([`SpeechInputs`]): of one text.
        reference ([`Reference`]): whose voice.
        timing ([`Timing`]): how long a text takes.
        speed (`float`): above 1 is faster than the reference.
        max_seconds (`float`, *optional*): what reference and chunk may last together; F5-TTS's 22 by default.
    """
    longest = longest_chunk(reference.text, reference.seconds, speed, timing.measure, max_seconds or MAX_TOTAL_SECONDS)
    first = timing.measure(reference.text) / reference.seconds * FIRST_SECONDS * speed
    for chunk in stream_chunks(inputs.texts[0], longest, first, timing.measure):
        yield dataclasses.replace(inputs, texts=[chunk], durations=[None])


class Fader:
    """
    Joins waveforms as they come: chunks that are together what `cross_fade` makes of all. The last 0.15 s of a
    waveform wait for the next.

    Args:
        sampling_rate (`int`): samples a second, in Hz.
    """

    def __init__(self, sampling_rate: int):
        self._longest = int(CROSS_FADE_SECONDS * sampling_rate)
        self._held: np.ndarray | None = None

    def add(self, wave: np.ndarray) -> np.ndarray:
        """What is known now that a waveform `(T,)` has come; may be empty."""
        held = self._held
        if held is not None:
            fade = min(self._longest, len(held), len(wave))
            ramp = np.linspace(0, 1, fade, dtype=wave.dtype)
            overlap = held[len(held) - fade :] * ramp[::-1] + wave[:fade] * ramp
            wave = np.concatenate([held[: len(held) - fade], overlap, wave[fade:]])
        known = max(0, len(wave) - self._longest)
        self._held = wave[known:]
        return wave[:known]

    def end(self) -> np.ndarray:
        """What waited for a next waveform, of which there is none; may be empty."""
        held, self._held = self._held, None
        return np.zeros(0, dtype=np.float32) if held is None else held


def fade_together(waves: Iterable[np.ndarray], sampling_rate: int) -> Iterator[np.ndarray]:
    """Chunks, each as soon as it is known and none of them empty, that are the waveforms `(T_i,)` cross-faded."""
    fader = Fader(sampling_rate)
    for wave in waves:
        if len(known := fader.add(wave)):
            yield known
    if len(rest := fader.end()):
        yield rest


def check_one_text(text: object) -> None:
    """
    Raises:
        TypeError: for a list of texts: a stream is of one.
    """
    if not isinstance(text, str):
        raise TypeError(f"`text` must be a string to be streamed, but got {type(text).__name__}.")
