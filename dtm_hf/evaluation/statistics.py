"""Figures of a set of items and how sure they are: ratios of sums, with bootstrap intervals over the items."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# A draw holds the figures of all its items: in blocks, 100 000 items stay below 400 MB.
_DRAWS_AT_ONCE = 100


@dataclass
class Estimate:
    """
    Args:
        value (`float`): The figure on all items.
        low (`float`): Lower end of its interval.
        high (`float`): Upper end of its interval.
        n (`int`): Items behind it. One item has no spread to resample: `low == value == high`.
    """

    value: float
    low: float
    high: float
    n: int


def ratio(
    numerators: np.ndarray, denominators: np.ndarray, draws: int = 2000, seed: int = 0, level: float = 0.95
) -> Estimate:
    r"""
    Sum of the numerators over the sum of the denominators, with a percentile interval of the cluster bootstrap.

        value = sum_is a_is / sum_is b_is

    A draw picks n of the n items with replacement and takes all seeds of each: the seeds of an item share its text,
    prompt and recording and are no independent looks (Davison and Hinkley, Bootstrap Methods, section 3.8).

    Args:
        numerators (`np.ndarray` of shape `(items, seeds)`): a, NaN where there is no figure.
        denominators (`np.ndarray` of shape `(items, seeds)`): b > 0, NaN where there is no figure.
        draws (`int`, defaults to 2000): Samples of the bootstrap.
        seed (`int`, defaults to 0): Of the resampling: the same seed gives the same interval.
        level (`float`, defaults to 0.95): Share of the samples inside the interval.

    Raises:
        ValueError: for arrays without a figure, shapes that do not fit, or an item whose denominators are not
            positive.
    """
    above, below = _item_sums({"numerators": numerators, "denominators": denominators})
    _check_positive("denominators", below)
    return _bootstrap((above, below), _ratio, draws, seed, level)


def paired_difference(
    a: tuple[np.ndarray, np.ndarray],
    b: tuple[np.ndarray, np.ndarray],
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    transform: Callable[[np.ndarray], np.ndarray] = lambda ratios: ratios,
) -> Estimate:
    """
    The ratio of `a` minus that of `b` on the same items, in each draw both from the same resampled items.

    What makes an item hard is in both ratios and cancels, so that the interval is narrower than those of two arms on
    their own. A figure that one of them lacks is left out of both, an item without figures altogether.

    Args:
        a (pair of `np.ndarray` of shape `(items, seeds)`): Numerators and denominators as in [`ratio`].
        b (pair of `np.ndarray` of shape `(items, seeds)`): Those of the other arm. One seed stands beside all seeds of
            the other arm: recordings have only one.
        draws (`int`, defaults to 2000): Samples of the bootstrap.
        seed (`int`, defaults to 0): Of the resampling.
        level (`float`, defaults to 0.95): Share of the samples inside the interval.
        transform (`Callable`, *optional*): Of both ratios before the difference is taken, for example their distance
            from 1.

    Raises:
        ValueError: as in [`ratio`].
    """
    above_a, below_a, above_b, below_b = _item_sums({"a[0]": a[0], "a[1]": a[1], "b[0]": b[0], "b[1]": b[1]})
    _check_positive("a[1]", below_a)
    _check_positive("b[1]", below_b)

    def difference(above_a, below_a, above_b, below_b, axis):
        return transform(_ratio(above_a, below_a, axis)) - transform(_ratio(above_b, below_b, axis))

    return _bootstrap((above_a, below_a, above_b, below_b), difference, draws, seed, level)


def _item_sums(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Sums over the seeds that all arrays have a figure for, one entry for each item with such a seed."""
    values = {name: np.asarray(array, dtype=np.float64) for name, array in arrays.items()}
    for name, array in values.items():
        if array.ndim != 2 or not array.size:
            raise ValueError(f"`{name}` must have shape (items, seeds), none of them 0, but got {array.shape}.")
        if np.isinf(array).any():
            raise ValueError(f"`{name}` must hold finite figures or NaN, but got an infinite one.")
    first = next(iter(values))
    seeds = max(array.shape[1] for array in values.values())
    for name, array in values.items():
        if len(array) != len(values[first]) or array.shape[1] not in (1, seeds):
            raise ValueError(
                f"`{name}` has shape {array.shape}, which does not fit `{first}` of {values[first].shape}: "
                "the items must be the same, the seeds as many or one."
            )
    present = ~np.isnan(sum(values.values()))
    if not present.any():
        raise ValueError(f"`{'`, `'.join(values)}` have no figure in common: each place holds a NaN in one of them.")
    kept = present.any(axis=1)
    return [np.where(present, array, 0).sum(axis=1)[kept] for array in values.values()]


def _check_positive(name: str, sums: np.ndarray) -> None:
    if sums.min() <= 0:
        raise ValueError(f"`{name}` must be positive for each item, but one adds up to {sums.min()}.")


def _ratio(above: np.ndarray, below: np.ndarray, axis: int) -> np.ndarray:
    return above.sum(axis=axis) / below.sum(axis=axis)


def _bootstrap(sums: tuple[np.ndarray, ...], statistic: Callable, draws: int, seed: int, level: float) -> Estimate:
    """The statistic of the items' sums and its percentile interval; the sums of an item stay together in each draw."""
    if draws < 1:
        raise ValueError(f"`draws` must be at least 1, but got {draws}.")
    if not 0 < level < 1:
        raise ValueError(f"`level` must lie in (0, 1), but got {level}.")
    # Importing it takes a second, which nobody who only reads results has to wait.
    from scipy.stats import bootstrap

    items, value = len(sums[0]), float(statistic(*sums, axis=-1))
    # scipy refuses to resample one item.
    if items == 1:
        return Estimate(value, value, value, 1)
    interval = bootstrap(
        sums,
        statistic,
        n_resamples=draws,
        batch=_DRAWS_AT_ONCE,
        vectorized=True,
        paired=True,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high), items)
