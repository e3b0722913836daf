"""Arguments of a call, refused by name before anything is done; the command line asks here before it loads."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from dtm_hf.reading import show

# F5-TTS's own page offers 0.3 to 2. What is too slow for the network is said by how long it would last.
SPEEDS = (0.001, 10.0)
# Shorter than a sound of speech, and longer than a book.
SECONDS = (0.1, 100_000.0)
# Faster than anybody speaks or hears, in characters a second.
_MOST_CHARACTERS_A_SECOND = 100
GUIDANCE_SCALES = (0.0, 100.0)


def check_number(name: str, value: Any, bounds: tuple[float, float]) -> None:
    """
    Raises:
        TypeError: if it is no number.
        ValueError: if it lies outside of the bounds, or is not finite.
    """
    low, high = bounds
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be a number, but got {show(value)}.")
    # What is not a number lies nowhere.
    if not low <= value <= high:
        raise ValueError(f"`{name}` must lie in [{low:g}, {high:g}], but got {show(value)}.")


def check_count(name: str, value: Any, least: int) -> None:
    """
    Raises:
        TypeError: if it is no whole number.
        ValueError: if it is less than `least`.
    """
    wanted = f"`{name}` must be a whole number of at least {least}, but got {show(value)}."
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(wanted)
    if value < least:
        raise ValueError(wanted)


def check_durations(duration_s: Any, texts: Sequence[str]) -> list[float | None]:
    """
    Seconds of each text, `None` where they are to be estimated.

    Raises:
        TypeError: for anything but numbers and `None`.
        ValueError: for a list of another length, and for what no text, or not this one, can last.
    """
    durations = duration_s if isinstance(duration_s, list) else [duration_s] * len(texts)
    if len(durations) != len(texts):
        raise ValueError(
            f"`duration_s` must be a number of seconds, or a list of one for each of {len(texts)} texts, but got "
            f"{len(durations)}."
        )
    for duration, text in zip(durations, texts, strict=True):
        if duration is None:
            continue
        check_number("duration_s", duration, SECONDS)
        if len(text) > duration * _MOST_CHARACTERS_A_SECOND:
            raise ValueError(
                f"`duration_s` must leave room for a text of {len(text)} characters, at least "
                f"{len(text) / _MOST_CHARACTERS_A_SECOND:.2f} s, but got {duration:g}."
            )
    return durations


def check_generators(generator: Any, kind: type, num_texts: int, exactly: bool = True) -> None:
    """
    Args:
        generator: a generator, a list with one a text, or `None`.
        kind (`type`): `torch.Generator`.
        num_texts (`int`): how many texts there are, or at least that many if not `exactly`.

    Raises:
        TypeError: for anything else.
        ValueError: for a list of another length.
    """
    given = generator if isinstance(generator, list) else [generator]
    for entry in given:
        if entry is not None and not isinstance(entry, kind):
            raise TypeError(
                f"`generator` must be a torch.Generator, or a list with one for each text, but got {show(entry)}; a "
                "seed is given as `torch.Generator().manual_seed(0)`."
            )
    if isinstance(generator, list) and (len(given) != num_texts if exactly else len(given) < num_texts):
        raise ValueError(f"`generator` must have one entry for each of {num_texts} texts, but got {len(given)}.")


def check_callback(callback: Any, tensor_inputs: Any, allowed: Sequence[str]) -> None:
    """
    Raises:
        TypeError: for a callback that cannot be called.
        ValueError: for tensors that it cannot get.
    """
    if callback is not None and not callable(callback):
        raise TypeError(f"`callback_on_step_end` must be a function or None, but got {show(callback)}.")
    names = tensor_inputs if isinstance(tensor_inputs, list | tuple) else [tensor_inputs]
    foreign = [name for name in names if name not in allowed]
    if foreign or names is not tensor_inputs:
        raise ValueError(f"`callback_on_step_end_tensor_inputs` must be in {list(allowed)}, but got {show(foreign)}.")
