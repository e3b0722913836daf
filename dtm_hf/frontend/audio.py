"""Reference audio: whatever a user has at hand, made ready for F5-TTS."""

import io
import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

MIN_SECONDS = 0.1
# f5_tts/infer/utils_infer.py: seconds of a recording that are used, and the level that quieter ones are raised to.
MAX_SECONDS = 12.0
TARGET_RMS = 0.1
# Quieter than this nothing is heard, and raising it to `TARGET_RMS` would only raise noise.
SILENT_RMS = 1e-4
# A float recording may overshoot 1 a little; beyond this it holds integers that were never divided by their range.
MAX_PEAK = 10.0
MAX_CHANNELS = 16

_ACCEPTED = (
    "a path, an (array, sampling rate) tuple, a dict with 'array' and 'sampling_rate' or with 'bytes' or 'path', or "
    "an Audio value of `datasets`"
)


def _decode(source: str | os.PathLike | io.BytesIO, name: str) -> tuple[np.ndarray, int]:
    import soundfile

    try:
        return soundfile.read(source, dtype="float32")
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"`reference_audio` {name} cannot be read as audio ({error.error_string.strip()} Accepted: WAV, FLAC, "
            "OGG, MP3 and what else libsndfile reads."
        ) from error


def _decode_file(path: str | os.PathLike) -> tuple[np.ndarray, int]:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"`reference_audio` {os.fspath(path)!r} is not an existing file.")
    return _decode(path, repr(os.fspath(path)))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _array_and_rate(reference: Any) -> tuple[Any, Any]:
    """The samples and their rate, unchecked, from any of the accepted kinds of `reference`."""
    if isinstance(reference, (str, os.PathLike)):
        return _decode_file(reference)
    if hasattr(reference, "get_all_samples"):
        samples = reference.get_all_samples()
        return samples.data, samples.sample_rate
    if isinstance(reference, Mapping):
        if reference.get("array") is not None and reference.get("sampling_rate") is not None:
            return reference["array"], reference["sampling_rate"]
        if reference.get("bytes") is not None:
            return _decode(io.BytesIO(reference["bytes"]), "(bytes)")
        if reference.get("path") is not None:
            return _decode_file(reference["path"])
        raise ValueError(f"`reference_audio` is a dict with the keys {sorted(reference)}; accepted: {_ACCEPTED}.")
    if isinstance(reference, (tuple, list)) and len(reference) == 2:
        array, rate = reference
        if _is_number(array) and not _is_number(rate):
            array, rate = rate, array
        if _is_number(rate) and not _is_number(array):
            return array, rate
    raise TypeError(f"`reference_audio` must be {_ACCEPTED}, but got {type(reference).__name__}.")


def _to_mono(array: Any) -> np.ndarray:
    """Float samples of shape `[T]`: integers divided by their range, channels averaged."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        array = array.float() if array.is_floating_point() else array
    samples = np.asarray(array)
    if samples.dtype.kind == "u":
        half = (np.iinfo(samples.dtype).max + 1) / 2
        samples = samples / half - 1
    elif samples.dtype.kind == "i":
        samples = samples / -float(np.iinfo(samples.dtype).min)
    elif samples.dtype.kind != "f":
        raise TypeError(f"`reference_audio` must hold float or integer samples, but got dtype {samples.dtype}.")
    if samples.ndim == 2 and samples.size:
        channels = int(np.argmin(samples.shape))
        if samples.shape[channels] > MAX_CHANNELS:
            raise ValueError(
                f"`reference_audio` must have shape [T], [T, channels] or [channels, T] with at most {MAX_CHANNELS} "
                f"channels, but got {list(samples.shape)}."
            )
        samples = samples.mean(axis=channels)
    if samples.ndim > 2 or samples.ndim == 0:
        raise ValueError(f"`reference_audio` must have one or two dimensions, but got shape {list(samples.shape)}.")
    return samples.astype(np.float32).reshape(-1)


def _clip_point(samples: np.ndarray, rate: int, max_seconds: float) -> int:
    """
    Where to cut a recording that is too long: in the last pause (100 ms below -40 dBFS, the thresholds of
    `f5_tts.infer.utils_infer`) of the second half of the `max_seconds`, and at `max_seconds` if there is none.
    """
    start, stop = int(max_seconds / 2 * rate), int(max_seconds * rate)
    width = max(1, int(0.1 * rate))
    energy = np.cumsum(np.concatenate([[0.0], samples[start:stop].astype(np.float64) ** 2]))
    pauses = np.flatnonzero(energy[width:] - energy[:-width] < 0.01**2 * width)
    return start + int(pauses[-1]) + width // 2 if len(pauses) else stop


def load_reference(
    reference: Any, *, sampling_rate: int = 24000, max_seconds: float = MAX_SECONDS
) -> tuple[np.ndarray, float]:
    """
    Read a reference recording and prepare it as F5-TTS does: mono, at most `max_seconds`, raised to an RMS of 0.1 if
    quieter, then resampled.

    Args:
        reference:
            A path; an (array, rate) tuple, in either order; a dict with `array` and `sampling_rate`, or with `bytes`
            or `path`; an `AudioDecoder` as rows of `datasets` hold it. Arrays are `[T]`, `[T, channels]` or
            `[channels, T]`, floats in [-1, 1] or integers over their full range.
        sampling_rate (`int`, defaults to 24000):
            Rate of the result in Hz.
        max_seconds (`float`, defaults to 12.0):
            Longer recordings are cut in a pause, with a warning.

    Returns:
        `tuple[np.ndarray, float]`: float32 samples `[T]`, and the RMS before it was raised. What is generated from the
        reference is multiplied by `min(rms / 0.1, 1)` to be as loud as the recording.

    Raises:
        FileNotFoundError: if there is no file at the path.
        TypeError: if `reference` is of no accepted kind, or its samples are neither floats nor integers.
        ValueError: if it is not audio, empty, shorter than 0.1 s, silent, or holds NaN or infinite samples, or its
            rate is not a positive whole number.
    """
    array, rate = _array_and_rate(reference)
    if not _is_number(rate) or not np.isfinite(rate) or rate <= 0 or rate != int(rate):
        raise ValueError(f"`reference_audio` must have a positive whole sampling rate in Hz, but got {rate!r}.")
    rate = int(rate)
    samples = _to_mono(array)
    if len(samples) == 0:
        raise ValueError("`reference_audio` is empty; at least 0.1 s of speech is needed.")
    if len(samples) < MIN_SECONDS * rate:
        raise ValueError(
            f"`reference_audio` is {len(samples) / rate:.3f} s long ({len(samples)} samples at {rate} Hz); at least "
            f"{MIN_SECONDS} s of speech is needed."
        )
    if not np.isfinite(samples).all():
        raise ValueError(f"`reference_audio` holds {np.count_nonzero(~np.isfinite(samples))} NaN or infinite samples.")
    peak = float(np.abs(samples).max())
    if peak > MAX_PEAK:
        raise ValueError(f"`reference_audio` has a peak of {peak:g}; float samples must lie in [-1, 1].")
    if len(samples) > max_seconds * rate:
        point = _clip_point(samples, rate, max_seconds)
        warnings.warn(
            f"`reference_audio` is {len(samples) / rate:.1f} s long and was clipped to its first "
            f"{point / rate:.1f} s; `reference_text` must be what is said in these.",
            stacklevel=2,
        )
        samples = samples[:point]
    rms = float(np.sqrt(np.mean(samples.astype(np.float64) ** 2)))
    if rms < SILENT_RMS:
        raise ValueError(f"`reference_audio` is silent (RMS {rms:.1e}, and speech needs at least {SILENT_RMS:.0e}).")
    if rms < TARGET_RMS:
        samples = samples * np.float32(TARGET_RMS / rms)
    if rate != sampling_rate:
        import soxr

        samples = soxr.resample(samples, rate, sampling_rate, quality="HQ")
    return np.ascontiguousarray(samples, dtype=np.float32), rms
