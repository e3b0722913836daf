"""Whether other noise makes other speech."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np


def diversity(mels: Sequence[np.ndarray]) -> float:
    r"""
    Mean over the pairs of samples of the root mean square difference of their mels.

        mean over a < b of sqrt(mean over n, m of (x^a_nm - x^b_nm)^2)

    In natural logarithms of magnitudes: 1 is 8.7 dB. Samplers that collapse to one answer have a lower figure than the
    baseline with many steps. Frames are compared at equal shares of the way, so that other timing counts as well but
    another length, which a seed draws before the sampler begins, does not.

    Args:
        mels (sequence of `np.ndarray` of shape `(N, M)`): Log-mels of one item with different seeds.

    Raises:
        ValueError: for fewer than two mels, empty ones, or different numbers of bins.
    """
    shapes = sorted({mel.shape for mel in mels})
    if len(mels) < 2 or len({shape[1:] for shape in shapes}) > 1 or not min(shapes)[0]:
        raise ValueError(f"`mels` must hold two or more with frames of as many bins, but got {len(mels)} of {shapes}.")
    longest = max(shapes)[0]
    stretched = [mel[((np.arange(longest) + 0.5) * len(mel) / longest).astype(int)] for mel in mels]
    return float(np.mean([np.sqrt(np.square(a - b).mean()) for a, b in combinations(stretched, 2)]))
