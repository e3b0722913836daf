"""A field of a configuration says itself what it is for and which values it takes."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import Field, field
from typing import Any


def option(
    default: Any,
    text: str,
    *,
    choices: Sequence[str] | None = None,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Any:
    """
    A dataclass field with a help text and limits; none is always allowed where the type allows it.

    Args:
        default: its default; a list is copied.
        text (`str`): for `--help`.
        choices (`list[str]`, *optional*): all values there are.
        above, at_least, at_most (`float`, *optional*): bounds of a number, the first exclusive.
    """
    limits = {"choices": choices, "above": above, "at_least": at_least, "at_most": at_most}
    metadata = {"help": text} | {name: limit for name, limit in limits.items() if limit is not None}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def check_limits(entry: Field, value: Any) -> None:
    """
    Raises:
        ValueError: if the value is outside of the limits of its field.
    """
    limits, name = entry.metadata, entry.name
    if value is None:
        return
    choices = limits.get("choices", (value,))
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {choices}, but got {value!r}{nearest(value, choices)}.")
    or_none = ", or none" if entry.default is None else ""
    # Not the other way round, which NaN would pass.
    if "above" in limits and not value > limits["above"]:
        raise ValueError(f"`{name}` must be greater than {limits['above']}{or_none}, but got {value}.")
    low, high = limits.get("at_least"), limits.get("at_most")
    if None not in (low, high) and not low <= value <= high:
        raise ValueError(f"`{name}` must lie in [{low}, {high}]{or_none}, but got {value}.")
    if high is not None and not value <= high:
        raise ValueError(f"`{name}` must be at most {high}{or_none}, but got {value}.")
    if low is not None and not value >= low:
        raise ValueError(f"`{name}` must be at least {low}{or_none}, but got {value}.")


def nearest(name: object, valid: Iterable[str]) -> str:
    """The end of a message about a name that is none: the one that was meant, or all that there are."""
    close = difflib.get_close_matches(str(name), list(valid), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; valid names: {', '.join(sorted(valid))}"
