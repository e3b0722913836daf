"""Two outputs that shall be the same, in figures; what tells nothing is a failure."""

from dataclasses import dataclass

import numpy as np

from dtm_hf.ports.tolerance import Bar


@dataclass(frozen=True)
class Difference:
    """
    How an output differs from what is expected.

    Args:
        correlation (`float`): 1 - Pearson correlation.
        deviation (`float`): largest difference of two values, over the root mean square of what is expected.
        scale (`float`): distance of the ratio of the two root mean squares from 1.
        fault (`str`, *optional*): what makes the figures say nothing: another shape, no values, one value alone, or
            values that are no numbers.
    """

    correlation: float = float("inf")
    deviation: float = float("inf")
    scale: float = float("inf")
    fault: str | None = None

    def within(self, bar: Bar) -> bool:
        """Whether it is small enough."""
        # A figure that is not a number compares as false.
        return self.fault is None and (
            self.correlation <= bar.correlation and self.deviation <= bar.deviation and self.scale <= bar.scale
        )


def difference(output: np.ndarray, expected: np.ndarray) -> Difference:
    """The [`Difference`] of two arrays of any shape."""
    if output.shape != expected.shape:
        return Difference(fault=f"has shape {output.shape} in the place of {expected.shape}")
    if expected.size == 0:
        return Difference(fault="is empty")
    wrong = int(np.count_nonzero(~np.isfinite(output)))
    if wrong:
        return Difference(fault=f"holds {wrong} values that are no finite numbers")
    # A single number has no correlation, and an output that is the same everywhere would agree with any other.
    output, expected = output.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    if expected.std() == 0 or output.std() == 0:
        return Difference(fault="is constant")
    norm, other = np.sqrt(np.mean(expected**2)), np.sqrt(np.mean(output**2))
    centred, theirs = output - output.mean(), expected - expected.mean()
    correlation = float(centred @ theirs / np.sqrt((centred @ centred) * (theirs @ theirs)))
    return Difference(
        correlation=1 - correlation,
        deviation=float(np.abs(output - expected).max() / norm),
        scale=float(abs(other / norm - 1)),
    )


def beside_two_seeds(mel, wanted, elsewise, length: float) -> tuple[float, float]:
    """
    Mean absolute distance of a port's log-mel to its source's, and that of another seed of the source.

    Args:
        mel (`torch.Tensor` of shape `(N, M)`): of the port; `wanted` of the source; `elsewise` of its other seed.
        length (`float`): share of the source's frames that the port may have more or less; then those that both have
            are compared. Beyond that the distance is infinite.
    """
    frames, shared = min(len(wanted), len(elsewise)), min(len(mel), len(wanted))
    spread = float((wanted[:frames] - elsewise[:frames]).abs().mean())
    if mel.shape[1:] != wanted.shape[1:] or abs(len(mel) - len(wanted)) > length * len(wanted):
        return float("inf"), spread
    return float((mel[:shared] - wanted[:shared]).abs().mean()), spread
