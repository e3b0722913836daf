"""The loss by the times it was drawn at, gathered on the device and read at log intervals alone."""

from collections.abc import Callable

import torch

from dtm_hf.training.objectives.losses import LossOutput


class LossWindow:
    """
    Mean figures of the batches between two log lines: the loss by its times, as [`LossOutput.by_time`] has it, and the
    objective's own figures.

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
        for name, parts in output.by_time(self.num_bins).items():
            self._count(prefix + name, parts)

    def add_figure(self, name: str, figure: torch.Tensor) -> None:
        """Count one figure of a batch, shape `()`, in."""
        self._count(name, torch.stack([figure.detach().float(), torch.ones_like(figure, dtype=torch.float32)]))

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
        # What is not finite would hide the rest of its bin.
        parts = torch.where(parts.isfinite().all(dim=0), parts, 0)
        self._totals[name] = self._totals[name] + parts if name in self._totals else parts
