"""Where a recording is silent: its edges, its pauses, and where it may be cut."""

import numpy as np

# f5_tts/infer/utils_infer.py: edges are silent in frames of 10 ms below -42 dBFS, and 50 ms of silence end a prompt.
_FRAME_SECONDS = 0.01
_SILENT_RMS = 10 ** (-42 / 20)
END_SECONDS = 0.05
# A breath. F5-TTS keeps up to 2 s of a pause, and takes it for a part of the pace; with half a second kept in one, the
# embedded model's word error rises from 0.20 to 0.28.
MAX_PAUSE_SECONDS = 0.3
# A pause that is long enough to cut in, and not the closure of a consonant.
_CUT_SECONDS = 0.1
# Of a recording whose loudest tenth of a second is quieter than this, silence is as much quieter as it.
_LOUD_RMS = 0.1


def silent_spans(samples: np.ndarray, rate: int, min_seconds: float = _CUT_SECONDS) -> list[tuple[int, int]]:
    """
    Samples from and to, of each silence of `min_seconds` and more.

    Args:
        samples (`np.ndarray` of shape `(T,)`): mono, any rate.
        rate (`int`): in Hz.
        min_seconds (`float`, defaults to 0.1): at both ends of the recording any silence counts.
    """
    width = max(1, round(_FRAME_SECONDS * rate))
    starts = np.arange(0, len(samples), width)
    power = np.add.reduceat(samples.astype(np.float64) ** 2, starts) / np.diff(np.append(starts, len(samples)))
    window = min(10, len(power))
    loudest = np.sqrt(np.convolve(power, np.ones(window) / window, mode="valid").max())
    silent = np.sqrt(power) < _SILENT_RMS * min(1.0, loudest / _LOUD_RMS)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], silent.astype(np.int8), [0]])))
    spans = [(int(a) * width, min(int(b) * width, len(samples))) for a, b in edges.reshape(-1, 2)]
    return [(a, b) for a, b in spans if b - a >= min_seconds * rate or a == 0 or b == len(samples)]


def without_silence(samples: np.ndarray, rate: int) -> np.ndarray:
    """
    The recording without silent edges, and with pauses of 0.3 s at most: of a longer one its two ends remain.
    """
    keep = np.ones(len(samples), dtype=bool)
    longest = int(MAX_PAUSE_SECONDS * rate)
    for start, stop in silent_spans(samples, rate):
        if start == 0 or stop == len(samples):
            keep[start:stop] = False
        elif stop - start > longest:
            keep[start + longest // 2 : stop - (longest - longest // 2)] = False
    return samples[keep]


def cut_points(samples: np.ndarray, rate: int, max_seconds: float) -> list[int]:
    """
    Samples at which a recording that is too long may be cut: the middles of its pauses in the second half of
    `max_seconds`, as F5-TTS wants at least 6 s and at most 12; `max_seconds` itself if there is none.
    """
    middles = [(start + stop) // 2 for start, stop in silent_spans(samples, rate)]
    return [m for m in middles if max_seconds / 2 <= m / rate <= max_seconds] or [int(max_seconds * rate)]
