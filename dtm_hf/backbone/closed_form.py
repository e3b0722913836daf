"""Guidance at t = 0, where it takes no second branch. Imports no torch."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dtm_hf.mean_mel import MeanMel

if TYPE_CHECKING:
    import torch


def guided_at_zero(
    conditional: "torch.Tensor",
    x_0: "torch.Tensor",
    scale: Any,
    mean: Sequence[float] | Mapping[str, Sequence[float]] | MeanMel,
    attention_mask: "torch.Tensor | None" = None,
) -> "torch.Tensor":
    """
    v_c + w (v_c - v_u) at t = 0: the noise tells nothing of the data, so that v_u = E[X_1 - X_0 | X_0] = mean - X_0.

    Args:
        conditional (`torch.Tensor` of shape `(B, N, M)`): v_c, of torch or, without it, of numpy.
        x_0 (`torch.Tensor` of shape `(B, N, M)`): the noise.
        scale (`float` or `torch.Tensor` of shape `(B, 1, 1)`): w + 1.
        mean ([`MeanMel`], or what makes one): E[X_1].
        attention_mask (`torch.Tensor` of shape `(B, N)`, *optional*): `True` at valid frames, which come first.
    """
    mean, num_frames = MeanMel.of(mean), x_0.shape[1]
    if hasattr(x_0, "new_tensor"):
        import torch

        array, frames = x_0.new_tensor, torch.arange(num_frames, device=x_0.device)
    else:
        # Of a runtime without torch. Names of arms are checked where not even numpy is loaded.
        import numpy as np

        array, frames = np.float32, np.arange(num_frames)
    expected = array(mean.mean)
    if mean.edge:
        length = num_frames if attention_mask is None else attention_mask.sum(1)[:, None]
        share = array((*mean.first, 0.0))[frames.clip(0, len(mean.first))]
        share = share + array((*mean.last, 0.0))[(length - 1 - frames).clip(0, len(mean.last))]
        # The ends of a very short one meet.
        expected = expected + share.clip(-1.0, 1.0)[..., None] * (array(mean.edge) - expected)
    return conditional + (scale - 1.0) * (conditional - (expected - x_0))
