"""Reference audio: whatever a user has at hand, made ready for F5-TTS."""

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dtm_hf.frontend.decoding import MAX_CHANNELS, MAX_READ_SECONDS, Sound, decode
from dtm_hf.frontend.silence import END_SECONDS, cut_points, without_silence

MIN_SECONDS = 0.1
# f5_tts/infer/utils_infer.py: seconds of a recording that are used, and the level that quieter ones are raised to.
MAX_SECONDS = 12.0
TARGET_RMS = 0.1
# Quieter than this nothing is heard, and raising it to `TARGET_RMS` would only raise noise.
SILENT_RMS = 1e-4
# A float recording may overshoot 1 a little; beyond this it holds integers that were never divided by their range.
MAX_PEAK = 10.0
# Channels whose mean is quieter than this share of the louder one have cancelled each other.
_CANCELLED_SHARE = 0.05
# What is cut off a recording is told from here on.
_TOLD_SECONDS = 0.3

_ACCEPTED = (
    "a path, an (array, sampling rate) tuple, a dict with 'array' and 'sampling_rate' or with 'bytes' or 'path', or "
    "an Audio value of `datasets`"
)


def _decode_file(path: str | os.PathLike) -> Sound:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"`reference_audio` {os.fspath(path)!r} is not an existing file.")
    return decode(path, repr(os.fspath(path)))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _read(reference: Any) -> tuple[Any, Any, float | None]:
    """
    The samples and their rate, unchecked, and the seconds of the whole if these are its start, from any of the
    accepted kinds of `reference`.
    """
    if isinstance(reference, (str, os.PathLike)):
        sound = _decode_file(reference)
        return sound.samples, sound.rate, sound.seconds
    if hasattr(reference, "get_all_samples"):
        if hasattr(reference, "get_samples_played_in_range"):
            samples = reference.get_samples_played_in_range(0.0, MAX_READ_SECONDS)
            return samples.data, samples.sample_rate, reference.metadata.duration_seconds
        samples = reference.get_all_samples()
        return samples.data, samples.sample_rate, None
    if isinstance(reference, Mapping):
        if reference.get("array") is not None and reference.get("sampling_rate") is not None:
            return reference["array"], reference["sampling_rate"], None
        if reference.get("bytes") is not None:
            sound = decode(bytes(reference["bytes"]), "(bytes)")
            return sound.samples, sound.rate, sound.seconds
        if reference.get("path") is not None:
            return _read(reference["path"])
        raise ValueError(f"`reference_audio` is a dict with the keys {sorted(reference)}; accepted: {_ACCEPTED}.")
    if isinstance(reference, (tuple, list)) and len(reference) == 2:
        array, rate = reference
        if _is_number(array) and not _is_number(rate):
            array, rate = rate, array
        if _is_number(rate) and not _is_number(array):
            return array, rate, None
    raise TypeError(f"`reference_audio` must be {_ACCEPTED}, but got {type(reference).__name__}.")


def _to_mono(array: Any, limit: int) -> tuple[np.ndarray, int]:
    """The first `limit` samples, float of shape `[T]`, integers divided by their range; and how many there were."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        array = array.float() if array.is_floating_point() else array
    samples = np.asarray(array)
    if samples.dtype.kind not in "uif":
        raise TypeError(f"`reference_audio` must hold float or integer samples, but got dtype {samples.dtype}.")
    if samples.ndim not in (1, 2):
        raise ValueError(f"`reference_audio` must have one or two dimensions, but got shape {list(samples.shape)}.")
    if samples.ndim == 2 and samples.size:
        channels = int(np.argmin(samples.shape))
        if samples.shape[channels] > MAX_CHANNELS:
            raise ValueError(
                f"`reference_audio` must have shape [T], [T, channels] or [channels, T] with at most {MAX_CHANNELS} "
                f"channels, but got {list(samples.shape)}."
            )
        samples = samples.swapaxes(0, channels)
    length = samples.shape[-1] if samples.size else 0
    samples = samples[..., :limit]
    if samples.dtype.kind == "u":
        half = (np.iinfo(samples.dtype).max + 1) / 2
        samples = samples / half - 1
    elif samples.dtype.kind == "i":
        samples = samples / -float(np.iinfo(samples.dtype).min)
    samples = _average(samples) if samples.ndim == 2 and samples.size else samples
    return samples.astype(np.float32).reshape(-1), length


def _average(channels: np.ndarray) -> np.ndarray:
    """The mean of `(channels, T)`, which must not be silence where none of them is."""
    mean = channels.mean(axis=0)
    loudest = max(_rms(channel) for channel in channels)
    if loudest > SILENT_RMS and _rms(mean) < _CANCELLED_SHARE * loudest:
        raise ValueError(
            f"`reference_audio` has {len(channels)} channels that cancel each other: each is heard, and their mean is "
            "not, for one is the other upside down. Give one of them."
        )
    return mean


def _rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(samples.astype(np.float64) ** 2))) if samples.size else 0.0


@dataclass(frozen=True)
class Speech:
    """
    What is said in a recording, without the silence around it and in it.

    Args:
        samples (`np.ndarray` of shape `(T,)`): mono, float32, as loud as they were recorded.
        rate (`int`): in Hz.
        total_seconds (`float`): of speech in all, where the samples are the start of a longer recording; else theirs.
    """

    samples: np.ndarray
    rate: int
    total_seconds: float

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


def read_speech(reference: Any) -> Speech:
    """
    Read a recording of any kind and find its speech as F5-TTS does (`preprocess_ref_audio_text`): its edges are cut
    off where they are silent, and long pauses are shortened, so that pace and loudness are those of speech alone.

    Args:
        reference:
            A path; an (array, rate) tuple, in either order; a dict with `array` and `sampling_rate`, or with `bytes`
            or `path`; an `AudioDecoder` as rows of `datasets` hold it. Arrays are `[T]`, `[T, channels]` or
            `[channels, T]`, floats in [-1, 1] or integers over their full range. Of a long one the first minute is
            read.

    Raises:
        FileNotFoundError: if there is no file at the path.
        TypeError: if `reference` is of no accepted kind, or its samples are neither floats nor integers.
        ValueError: if it is not audio, cut off, empty, shorter than 0.1 s, silent, or holds NaN or infinite samples,
            its channels cancel each other, or its rate is not a positive whole number.
    """
    array, rate, seconds = _read(reference)
    if not _is_number(rate) or not np.isfinite(rate) or rate <= 0 or rate != int(rate):
        raise ValueError(f"`reference_audio` must have a positive whole sampling rate in Hz, but got {rate!r}.")
    rate = int(rate)
    samples, length = _to_mono(array, MAX_READ_SECONDS * rate)
    seconds = length / rate if seconds is None else seconds
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
    if (rms := _rms(samples)) < SILENT_RMS:
        raise ValueError(f"`reference_audio` is silent (RMS {rms:.1e}, and speech needs at least {SILENT_RMS:.0e}).")
    speech, read = without_silence(samples, rate), len(samples) / rate
    kept = len(speech) / rate
    if kept < MIN_SECONDS:
        raise ValueError(
            f"`reference_audio` holds {kept:.3f} s of speech in {read:.1f} s; at least {MIN_SECONDS} s are needed."
        )
    if read - kept >= _TOLD_SECONDS:
        warnings.warn(
            f"`reference_audio` holds {kept:.1f} s of speech in {read:.1f} s; silence at its ends and in long pauses "
            "was cut.",
            stacklevel=3,
        )
    return Speech(speech, rate, kept * seconds / read)


def finish_prompt(speech: Speech, sampling_rate: int) -> tuple[np.ndarray, float]:
    """
    Make speech a prompt as F5-TTS does: raised to an RMS of 0.1 if quieter, ended by 50 ms of silence, resampled.

    Args:
        speech ([`Speech`]): of a length that can be used.
        sampling_rate (`int`): of the result in Hz.

    Returns:
        As of [`load_reference`].
    """
    samples, rms = speech.samples, _rms(speech.samples)
    if rms < TARGET_RMS:
        samples = samples * np.float32(TARGET_RMS / rms)
    if speech.rate != sampling_rate:
        import soxr

        samples = soxr.resample(samples, speech.rate, sampling_rate, quality="HQ")
    samples = np.append(samples, np.zeros(int(END_SECONDS * sampling_rate)))
    return np.ascontiguousarray(samples, dtype=np.float32), rms


def load_reference(
    reference: Any, *, sampling_rate: int = 24000, max_seconds: float = MAX_SECONDS
) -> tuple[np.ndarray, float]:
    """
    Read a reference recording and prepare it as F5-TTS does: mono, without silence, at most `max_seconds`, raised to
    an RMS of 0.1 if quieter, then resampled.

    Args:
        reference: As of [`read_speech`].
        sampling_rate (`int`, defaults to 24000):
            Rate of the result in Hz.
        max_seconds (`float`, defaults to 12.0):
            Longer recordings are cut in a pause, with a warning.

    Returns:
        `tuple[np.ndarray, float]`: float32 samples `[T]`, and the RMS before it was raised. What is generated from the
        reference is multiplied by `min(rms / 0.1, 1)` to be as loud as the recording.

    Raises:
        FileNotFoundError, TypeError, ValueError: as of [`read_speech`].
    """
    speech = read_speech(reference)
    if speech.seconds > max_seconds:
        speech = clip(speech, cut_points(speech.samples, speech.rate, max_seconds)[-1])
    return finish_prompt(speech, sampling_rate)


def clip(speech: Speech, point: int, and_text: str = "`reference_text` must be what is said in these") -> Speech:
    """The samples of speech before a `point`, with a warning."""
    start = without_silence(speech.samples[:point], speech.rate)
    warnings.warn(
        f"`reference_audio` is {speech.total_seconds:.1f} s long and was clipped to its first "
        f"{point / speech.rate:.1f} s; {and_text}.",
        stacklevel=3,
    )
    return Speech(start, speech.rate, len(start) / speech.rate)
