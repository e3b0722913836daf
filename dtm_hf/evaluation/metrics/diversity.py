"""Whether other noise makes other speech."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np


def diversity(mels: Sequence[np.ndarray]) -> float:
    r"""
    Mean over the pairs of samples of the root mean square difference of their mels.

        mean over a < b of sqrt(mean over n, m of (x^a_nm - x^b_nm)^2)

    In natural logarithms of magnitudes: 1 is 8.7 dB. Samplers that collapse to one answer have a lower figure than the
    baseline with many steps; frames are compared in place, so that other timing counts as well.

    Args:
        mels (sequence of `np.ndarray` of shape `(N, M)`): Log-mels of one item with different seeds, equally long.

    Raises:
        ValueError: for fewer than two mels, or mels of different shapes.
    """
    shapes = {mel.shape for mel in mels}
    if len(mels) < 2 or len(shapes) > 1:
        raise ValueError(f"`mels` must hold two or more of one shape, but got {len(mels)} of {sorted(shapes)}.")
    return float(np.mean([np.sqrt(np.square(a - b).mean()) for a, b in combinations(mels, 2)]))
