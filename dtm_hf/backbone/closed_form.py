"""Guidance at t = 0, where it takes no second branch. Imports no torch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def guided_at_zero(
    conditional: "torch.Tensor", x_0: "torch.Tensor", scale: Any, mean: Sequence[float]
) -> "torch.Tensor":
    """
    v_c + w (v_c - v_u) at t = 0: the noise tells nothing of the data, so that v_u = E[X_1 - X_0 | X_0] = mean - X_0.

    Args:
        conditional (`torch.Tensor` of shape `(B, N, M)`): v_c, of torch or, without it, of numpy.
        x_0 (`torch.Tensor` of shape `(B, N, M)`): the noise.
        scale (`float` or `torch.Tensor` of shape `(B, 1, 1)`): w + 1.
        mean (sequence of `float`): E[X_1], the mean log-mel of each bin `(M,)`.
    """
    if hasattr(x_0, "new_tensor"):
        mean = x_0.new_tensor(mean)
    else:
        # Of a runtime without torch. Names of arms are checked where not even numpy is loaded.
        import numpy as np

        mean = np.float32(mean)
    return conditional + (scale - 1.0) * (conditional - (mean - x_0))
