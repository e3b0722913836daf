"""What a benchmark judges, and what a judge looks like."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass
class BenchmarkItem:
    """
    A sentence to speak.

    Args:
        id (`str`): Unique in its set.
        text (`str`): What to say.
        reference_audio (`np.ndarray` of shape `(T,)` or `str`): Mono float32 prompt at the rate of the set; a path
            where the pipeline is to read and cut the recording itself.
        reference_text (`str`): What the prompt says.
        recording (`np.ndarray` of shape `(T,)`, *optional*): The text as its speaker says it, at the same rate.
        language (`str`, defaults to `"en"`): Language of the text.
        duration_s (`float`, *optional*): Seconds of the speech; what the pipeline guesses by default.
        kind (`str`, *optional*): Of the sentence, such as `"question"`: the figures of each kind are told apart.
        speaker (`str`, *optional*): Who speaks, where the set names its speakers.
    """

    id: str
    text: str
    reference_audio: np.ndarray | str
    reference_text: str
    recording: np.ndarray | None = None
    language: str = "en"
    duration_s: float | None = None
    kind: str | None = None
    speaker: str | None = None


@dataclass
class Speech:
    """
    What an arm said, or a recording.

    Args:
        waveform (`np.ndarray` of shape `(T,)`): Mono float32 samples.
        sampling_rate (`int`): Samples a second, in Hz.
        mel (`np.ndarray` of shape `(N, M)`): Natural logarithm of mel magnitudes.
    """

    waveform: np.ndarray
    sampling_rate: int
    mel: np.ndarray


class Metric(Protocol):
    """
    A figure of one item that adds up to a figure of a set: the sum of the numerators over that of the denominators.

    A mean has the denominator 1, an error rate the number of words. `None` is an item that has no such figure. Where a
    metric has an attribute `at_most`, no item counts for more: its numerator is at most so many of its denominators.
    """

    name: str
    """Key in the results."""
    title: str
    """Head of its column."""
    higher_is_better: bool | None
    """`None` where 1 is the best: a ratio to the recordings."""

    def __call__(self, speech: Speech, item: BenchmarkItem) -> tuple[float, float] | None: ...


def resampled(waveform: np.ndarray, sampling_rate: int, target: int) -> np.ndarray:
    """Mono float32 samples `(T,)` at the rate `target` in Hz."""
    import soxr

    waveform = np.ascontiguousarray(waveform, dtype=np.float32)
    return waveform if sampling_rate == target else soxr.resample(waveform, sampling_rate, target)
