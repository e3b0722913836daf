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
        t (`torch.Tensor` of shape `(R,)`, *optional*): global time of each row.
        s (`torch.Tensor` of shape `(R,)`, *optional*): inner time of each row.
    """

    loss: torch.Tensor
    figures: dict[str, torch.Tensor]
    row_losses: torch.Tensor
    row_frames: torch.Tensor
    t: torch.Tensor | None = None
    s: torch.Tensor | None = None

    def __iter__(self) -> Iterator:
        yield self.loss
        yield self.figures

    def by_time(self, num_bins: int) -> dict[str, torch.Tensor]:
        """
        The loss in equal parts of [0, 1] of each of its times, by the name of a figure: sums over frames and numbers
        of frames, `(2, num_bins)`, or `(2, 1)` of a figure without parts. Neither copies to the host nor waits.
        """
        weights = self.row_frames.float()
        # A product and a sum rather than an indexed addition, which has no fixed order on a GPU.
        parts = torch.stack([self.row_losses.float() * weights, weights])
        found = {}
        for name, times in (("loss_t", self.t), ("loss_s", self.s)):
            if times is not None:
                index = (times * num_bins).long().clamp(0, num_bins - 1)
                inside = index[:, None] == torch.arange(num_bins, device=index.device)
                found[name] = (parts[:, :, None] * inside).sum(dim=1)
        return found


def masked_mean(values: torch.Tensor, mask: torch.Tensor, by_row: bool = False) -> torch.Tensor:
    """
    Mean over what a mask lets in, of all rows together, `()`, or of each row, `(R,)`; padding never enters, and the
    mean of nothing is 0.

    Args:
        values (`torch.Tensor` of shape `(R, ...)`): such as `(R, N, M)`.
        mask (`torch.BoolTensor`): of the first dimensions of `values`, such as `(R, N)`; sizes of 1 stand for any.
        by_row (`bool`, defaults to `False`): each row alone.
    """
    mask = mask.reshape(*mask.shape, *[1] * (values.ndim - mask.ndim))
    dims = tuple(range(1, values.ndim)) if by_row else tuple(range(values.ndim))
    total = values.masked_fill(~mask, 0.0).sum(dim=dims)
    return total / mask.expand_as(values).sum(dim=dims).clamp(min=1)
