"""One utterance: text to a trimmed, level waveform."""

import numpy as np
import soxr

from dtm_hf.frontend.audio import TARGET_RMS
from dtm_hf.training.corpus.engine import Engine, Unspeakable

SAMPLE_RATE = 24_000
DITHER_STD = 1e-4
"""White noise of -80 dBFS: digital silence would sit at the floor of a log-mel, where no recording is."""

_EDGE_SECONDS = 0.025
_WINDOW_SECONDS = 0.010
_SILENCE_DB = -45.0
_MAX_PEAK = 0.98


def trim_silence(waveform: np.ndarray, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Cut what is more than 45 dB below the loudest 10 ms at both ends, but for 25 ms.

    Args:
        waveform (`np.ndarray` of shape `(samples,)`): in full scale +-1.

    Raises:
        Unspeakable: if there is no sound in `waveform`.
    """
    window = max(1, round(_WINDOW_SECONDS * sample_rate))
    energy = np.convolve(waveform.astype(np.float64) ** 2, np.ones(window) / window, "same")
    if len(waveform) == 0 or energy.max() <= 1e-10:
        raise Unspeakable(f"`waveform` holds no sound: {len(waveform)} samples, all silent")
    loud = np.flatnonzero(energy > energy.max() * 10 ** (_SILENCE_DB / 10))
    edge = round(_EDGE_SECONDS * sample_rate)
    return waveform[max(0, loud[0] - edge) : loud[-1] + 1 + edge]


def render(engine: Engine, text: str, voice: str, rng: np.random.Generator) -> np.ndarray:
    """Speak `text`: 24 kHz mono, ends trimmed, RMS 0.1 (less where that would clip), dithered.

    Args:
        engine (`Engine`): Speaks it.
        text (`str`): A sentence.
        voice (`str`): One of the engine's.
        rng (`np.random.Generator`): Draws what the engine varies, then the dither.

    Returns:
        `np.ndarray` of shape `(samples,)`, float32 within +-1.

    Raises:
        ValueError: if the engine has no such voice.
        Unspeakable: if it cannot say `text`, or says nothing.
        MissingProgramError: if the engine is not installed.
        RuntimeError: if it fails.
    """
    waveform, rate = engine.speak(text, voice, rng)
    waveform = trim_silence(soxr.resample(waveform, rate, SAMPLE_RATE))
    gain = min(TARGET_RMS / np.sqrt(np.mean(waveform**2)), _MAX_PEAK / np.abs(waveform).max())
    return (waveform * gain + rng.normal(0.0, DITHER_STD, len(waveform))).astype(np.float32)
