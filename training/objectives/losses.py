"""What an objective says of a batch: the loss to descend, and the loss of each row with the times it was drawn at."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch


@dataclass
class LossOutput:
    """
    Result of an objective's `loss`; unpacks as `loss, figures`.

    A batch of B utterances with k draws of (s, Y_0) each has R = k B rows. All but `loss` is detached, and nothing is
    copied to the host.

    Args:
        loss (`torch.Tensor` of shape `()`): mean over the predicted frames, with its graph.
        figures (`dict[str, torch.Tensor]`): further scalars to log.
        row_losses (`torch.Tensor` of shape `(R,)`): loss of each row.
        row_frames (`torch.Tensor` of shape `(R,)`): predicted frames of each row: `loss` is the mean of `row_losses`
            with these as weights.
        t (`torch.Tensor` of shape `(R,)`): global time of each row.
        s (`torch.Tensor` of shape `(R,)`, *optional*): inner time of each row.
    """

    loss: torch.Tensor
    figures: dict[str, torch.Tensor]
    row_losses: torch.Tensor
    row_frames: torch.Tensor
    t: torch.Tensor
    s: torch.Tensor | None = None

    def __iter__(self) -> Iterator:
        yield self.loss
        yield self.figures


@torch.no_grad()
def row_means(values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Mean of each row over all bins of the frames of a mask, and the number of these frames: `(R, N, M)`, `(R, N)` ->
    `(R,)`, `(R,)`. A row without a frame has mean 0.
    """
    frames = mask.sum(dim=1)
    totals = values.masked_fill(~mask.unsqueeze(-1), 0.0).sum(dim=(1, 2))
    return totals / (frames * values.shape[-1]).clamp(min=1), frames
