"""The mean log-mel of what a network was trained on, as configurations have it. Imports no torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MeanMel:
    """
    E[X_1] by frame: within an utterance the same everywhere, and at both ends on its way to silence,
    mean + share_n (edge - mean). A pipeline's `mean_mel` is its fields as a mapping, or `mean` alone as a list.

    Args:
        mean (`tuple[float, ...]`): log-mel of each bin `(M,)`.
        edge (`tuple[float, ...]`, *optional*): log-mel of each bin `(M,)` of a frame whose share is 1.
        first (`tuple[float, ...]`, *optional*): shares of the frames from the first one on.
        last (`tuple[float, ...]`, *optional*): shares of the frames from the last one backward.
    """

    mean: tuple[float, ...]
    edge: tuple[float, ...] = ()
    first: tuple[float, ...] = ()
    last: tuple[float, ...] = ()

    @classmethod
    def of(cls, value: "Sequence[float] | Mapping[str, Sequence[float]] | MeanMel", num_mel_bins: int | None = None):
        """
        What a configuration says.

        Raises:
            ValueError: unless it is a list of `num_mel_bins` finite numbers, or a mapping with such a `mean` and
                `edge` and the shares `first` and `last`.
        """
        if isinstance(value, cls):
            return value
        parts = value if isinstance(value, Mapping) else {"mean": value}
        if parts.keys() not in ({"mean"}, {"mean", "edge", "first", "last"}):
            raise ValueError(
                "`mean_mel` must be a list of numbers, or have 'mean', 'edge', 'first' and 'last', but has "
                f"{sorted(map(str, parts))}."
            )
        # In this order: an edge has as many bins as the mean, and of shares there may be any number.
        wanted = num_mel_bins
        for name in filter(parts.__contains__, ("mean", "edge", "first", "last")):
            values = parts[name]
            # A mapping that two files hold need not be a list in both.
            listed = isinstance(values, Sequence) and not isinstance(values, str) and all(map(_is_finite, values))
            if not listed or wanted not in (None, len(values)):
                of, count = "" if name == "mean" else f"['{name}']", "" if wanted is None else f"{wanted} "
                raise ValueError(f"`mean_mel`{of} must be {count}finite numbers, but got {str(values)[:60]}.")
            wanted = len(values) if name == "mean" else None
        return cls(**{name: tuple(values) for name, values in parts.items()})


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
