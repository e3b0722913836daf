"""A recording and its text as a prompt: cut together where they are too long, refused where they do not fit."""

import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dtm_hf.frontend.audio import MAX_SECONDS, Speech, clip, finish_prompt, read_speech
from dtm_hf.frontend.silence import cut_points
from dtm_hf.pipelines.chunking import SENTENCE_END, finish_reference_text, num_bytes

logger = logging.getLogger(__name__)

# Characters a second that nobody speaks, and beyond which a text is hardly what was said.
_IMPOSSIBLE_PACE = 40.0
_PLAUSIBLE_PACE = (2.0, 28.0)
# Bytes of UTF-8 a second of ordinary speech, in English as in Chinese: whether a text is of a part or of the whole.
_ORDINARY_PACE = 14.0
# How far from a pause, as a share of the whole, the end of a clause may be for the two to be cut together.
_MAX_DISTANCE = 0.05


def read_prompt(
    recording: Any, text: str, sampling_rate: int, measure: Callable[[str], float] = num_bytes
) -> tuple[np.ndarray, float, str]:
    """
    Read a recording and make it and its text a prompt.

    Args:
        recording: As of [`~dtm_hf.frontend.audio.read_speech`].
        text (`str`): what is spoken of the reference text.
        sampling_rate (`int`): of the result in Hz.
        measure (`Callable[[str], float]`): how long a text takes.

    Returns:
        `tuple[np.ndarray, float, str]`: samples `(T,)`, their RMS before it was raised, and the text, ended.

    Raises:
        TypeError, ValueError, FileNotFoundError: as of [`~dtm_hf.frontend.audio.read_speech`]; ValueError also for a
            recording that is too long to be used as a whole and a text that cannot be cut with it, and for a text that
            cannot be said in the time.
    """
    speech = read_speech(recording)
    if speech.seconds > MAX_SECONDS:
        speech, text = _cut_together(speech, text, measure)
    _check_pace(text, speech.seconds)
    return *finish_prompt(speech, sampling_rate), finish_reference_text(text)


def _cut_together(speech: Speech, text: str, measure: Callable[[str], float]) -> tuple[Speech, str]:
    """
    The start of a recording and of its text: up to a pause and the end of a clause that lie at about the same share of
    the two. A text that is as long as speech of the part alone is taken to be of the part.
    """
    points = cut_points(speech.samples, speech.rate, MAX_SECONDS)
    shares = {point: point / speech.rate / speech.total_seconds for point in points}

    def strangeness(seconds: float) -> float:
        return abs(math.log(num_bytes(text) / seconds / _ORDINARY_PACE))

    if strangeness(points[-1] / speech.rate) < strangeness(speech.total_seconds):
        return clip(speech, points[-1]), text
    whole = measure(text)
    ends = {match.start(): measure(text[: match.start()]) / whole for match in SENTENCE_END.finditer(text)}
    pairs = [(abs(ends[end] - shares[point]), end, point) for end in ends if end for point in points]
    distance, end, point = min(pairs, default=(1.0, 0, points[-1]))
    if distance > _MAX_DISTANCE:
        raise ValueError(
            f"`reference_audio` is {speech.total_seconds:.1f} s long, and at most {MAX_SECONDS:g} s of it can be "
            "used; `reference_text` is that of the whole. Cut the recording, for example at "
            f"{points[-1] / speech.rate:.1f} s of speech, and give the text of that part."
        )
    text = text[:end]
    return clip(speech, point, f"`reference_text` with it, which is now {text!r}"), text


def _check_pace(text: str, seconds: float) -> None:
    pace = len(text) / seconds
    if pace > _IMPOSSIBLE_PACE:
        raise ValueError(
            f"`reference_text` must be what is said in `reference_audio`, but has {len(text)} characters for "
            f"{seconds:.1f} s of speech: nobody speaks {pace:.0f} a second."
        )
    if not _PLAUSIBLE_PACE[0] <= pace <= _PLAUSIBLE_PACE[1]:
        logger.warning(
            f"`reference_text` has {len(text)} characters for {seconds:.1f} s of speech in `reference_audio`, "
            f"{pace:.1f} a second: is it what is said there, all of it and nothing else?"
        )
