"""Two real voices and ways to spoil them, for tests of what judges speech."""

from importlib.resources import files

import numpy as np
import soundfile

from dtm_hf.evaluation.metric import BenchmarkItem, Speech

SAMPLING_RATE = 24000


def clip(voice: str) -> np.ndarray:
    """A sentence of about two seconds by `"michael"` (a man) or `"heart"` (a woman): mono float32 at 24 kHz."""
    waveform, rate = soundfile.read(files("dtm_hf") / f"assets/dtm-f5-voice/reference-{voice}.wav", dtype="float32")
    assert rate == SAMPLING_RATE
    return waveform


def text(voice: str) -> str:
    return (files("dtm_hf") / f"assets/dtm-f5-voice/reference-{voice}.txt").read_text().strip()


def spoken(waveform: np.ndarray) -> Speech:
    """A waveform as an arm gives it to its judges."""
    import torch

    from dtm_hf import F5FeatureExtractor

    waveform = np.asarray(waveform, dtype=np.float32)
    mel = F5FeatureExtractor().log_mel(torch.from_numpy(waveform)[None])[0].numpy()
    return Speech(waveform, SAMPLING_RATE, mel)


def item(voice: str = "heart", recorded: bool = True, **fields) -> BenchmarkItem:
    """The sentence of a voice, prompted by the first second of the same clip."""
    waveform = clip(voice)
    given = {"id": voice, "text": text(voice), "reference_audio": waveform[:SAMPLING_RATE], "reference_text": "today"}
    return BenchmarkItem(**given | {"recording": waveform if recorded else None} | fields)


def noisy(waveform: np.ndarray, share: float) -> np.ndarray:
    """With white noise of `share` times its level."""
    level = np.sqrt(np.mean(waveform**2))
    noise = np.random.default_rng(0).standard_normal(len(waveform))
    return (waveform + share * level * noise).astype(np.float32)


def silence(seconds: float = 2.0) -> np.ndarray:
    return np.zeros(round(seconds * SAMPLING_RATE), dtype=np.float32)


def glide(octaves: float, seconds: float = 1.5, start: float = 120.0) -> np.ndarray:
    """Harmonics whose pitch rises evenly in semitones: their spread is 12 octaves / sqrt(12)."""
    time = np.arange(round(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    phase = 2 * np.pi * np.cumsum(start * 2 ** (octaves * time / seconds)) / SAMPLING_RATE
    return (0.1 * sum(np.sin(k * phase) / k for k in range(1, 12))).astype(np.float32)
