"""The loss by the times it was drawn at, gathered on the device and read at log intervals alone."""

from collections.abc import Callable

import torch

from dtm_hf.backbone.low_rank import MAX_STEPS
from dtm_hf.training.objectives.losses import LossOutput
from dtm_hf.training.objectives.tdm import TDMLossOutput


class LossWindow:
    """
    Mean figures of the batches between two log lines: the loss in bins of t and of s, or by the step of a few-step
    student, and the objective's own figures.

    A loss that falls on average may still rise near the noise, where the text decides, or near the data. `add` neither
    copies to the host nor waits for the device.

    Args:
        num_bins (`int`, defaults to 8): Equal parts of [0, 1].
    """

    def __init__(self, num_bins: int = 8):
        if num_bins < 1:
            raise ValueError(f"`num_bins` must be at least 1, but got {num_bins}.")
        self.num_bins = num_bins
        # Name -> sums and counts, `[2, bins]`; an objective's own figure has one bin.
        self._totals: dict[str, torch.Tensor] = {}

    def add(self, output: LossOutput, prefix: str = "") -> None:
        """Count a batch in; `prefix` goes before the names of its figures."""
        for name, figure in output.figures.items():
            self.add_figure(prefix + name, figure)
        if isinstance(output, TDMLossOutput):
            self._add_by_step(output, prefix)
            return
        weights = output.row_frames.float()
        # A product and a sum rather than an indexed addition, which has no fixed order on a GPU.
        parts = torch.stack([output.row_losses.float() * weights, weights])
        for name, times in (("loss_t", output.t), ("loss_s", output.s)):
            if times is not None:
                index = (times * self.num_bins).long().clamp(0, self.num_bins - 1)
                inside = index[:, None] == torch.arange(self.num_bins, device=index.device)
                self._count(prefix + name, (parts[:, :, None] * inside).sum(dim=1))

    def add_figure(self, name: str, figure: torch.Tensor) -> None:
        """Count one figure of a batch, shape `()`, in."""
        self._count(name, torch.stack([figure.detach().float(), torch.ones_like(figure, dtype=torch.float32)]))

    def _add_by_step(self, output: TDMLossOutput, prefix: str) -> None:
        # The intervals of a student's steps have times in units of its network, and widths of their own.
        weights = output.row_frames.float()
        values = {"loss": output.row_losses, "score_gap": output.row_gaps}
        for count in range(1, MAX_STEPS + 1):
            for step in range(count):
                inside = weights * ((output.num_steps == count) & (output.step == step))
                for name, rows in values.items():
                    if rows is not None:
                        parts = torch.stack([(rows.float() * inside).sum(), inside.sum()])
                        self._count(f"{prefix}{name}_step_{step + 1}_of_{count}", parts)

    def figures(self, reduce: Callable[[torch.Tensor], torch.Tensor] | None = None) -> dict[str, float]:
        """
        Means since the last call, which start anew: `loss_t_0.00_0.12` is the mean over the predicted frames with t in
        this range. A bin without frames is left out.

        Args:
            reduce (`Callable`, *optional*):
                Adds a tensor up over processes, each of which must then make this call.
        """
        if not self._totals:
            return {}
        names = sorted(self._totals)
        totals = torch.cat([self._totals[name] for name in names], dim=1)
        self._totals, sizes = {}, [self._totals[name].shape[1] for name in names]
        sums, counts = (totals if reduce is None else reduce(totals)).tolist()
        figures, start = {}, 0
        for name, size in zip(names, sizes, strict=True):
            for i in range(size):
                if counts[start + i]:
                    part = "" if size == 1 else f"_{i / size:.2f}_{(i + 1) / size:.2f}"
                    figures[name + part] = sums[start + i] / counts[start + i]
            start += size
        return figures

    def state_dict(self) -> dict[str, list[list[float]]]:
        """The window so far, as JSON holds it without loss."""
        return {name: totals.tolist() for name, totals in self._totals.items()}

    def load_state_dict(self, state: dict[str, list[list[float]]], device: torch.device | str = "cpu") -> None:
        """Go on with a window that another run began."""
        self._totals = {name: torch.tensor(totals, device=device) for name, totals in state.items()}

    def _count(self, name: str, parts: torch.Tensor) -> None:
        parts = parts.reshape(2, -1)
        self._totals[name] = self._totals[name] + parts if name in self._totals else parts
