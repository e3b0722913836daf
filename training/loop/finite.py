"""What is not finite: a loss or a gradient skips its step, and weights are never saved."""

import math
from collections.abc import Iterable, Sequence

import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor

from dtm_hf.training.loop.errors import DivergenceError
from dtm_hf.training.loop.ranks import anywhere


class FiniteGuard:
    """
    Lets no weight be changed by what is not finite. All processes decide alike, each of which makes all calls.

    Args:
        accelerator (`Accelerator`): of the run.
        max_skipped_steps (`int`): so many skipped steps in a row stop the run.
    """

    def __init__(self, accelerator: Accelerator, max_skipped_steps: int):
        self.accelerator, self.max_skipped_steps = accelerator, max_skipped_steps
        #: Since the run began.
        self.skipped = 0
        self.in_a_row = 0
        self._refused = ""

    def accepts(self, losses: Sequence[torch.Tensor], grad_norm: torch.Tensor) -> bool:
        """Whether the gradient of these losses, shape `()` each, may change the weights. Waits for the device."""
        loss, norm = float(torch.stack([loss.detach().float() for loss in losses]).mean()), float(grad_norm)
        refused = anywhere(self.accelerator, not (math.isfinite(loss) and math.isfinite(norm)))
        if refused:
            self._refused = f"loss {loss:g}, gradient norm {norm:g}"
        return not refused

    def end_step(self, step: int) -> bool:
        """
        Whether all gradients of the step that ends here were accepted; `step` counts it in.

        Raises:
            DivergenceError: if too many steps in a row were skipped.
        """
        refused, self._refused = self._refused, ""
        self.in_a_row = self.in_a_row + 1 if refused else 0
        self.skipped += bool(refused)
        if self.in_a_row >= self.max_skipped_steps:
            raise DivergenceError(
                f"Stopped after step {step}: {self.in_a_row} steps in a row were skipped, as many as "
                f"`max_skipped_steps` allows, for their loss or gradient was not finite (the last: {refused}). No "
                "weight was changed by them. A lower `learning_rate` or a longer warm-up may do."
            )
        return not refused

    def is_sound(self, step: int, figure: float | None, last: bool) -> bool:
        """
        Whether the weights are worth a checkpoint: after a step without `figure`, the decisive one of the validation,
        if it was not skipped; else if that is finite. After the `last` step either will do.

        Raises:
            DivergenceError: if it was the last and neither holds.
        """
        sound = self.in_a_row == 0 if figure is None else math.isfinite(figure)
        if anywhere(self.accelerator, not sound):
            if last and self.in_a_row:
                raise DivergenceError(
                    f"Stopped after step {step}, the last, without a result: {self.in_a_row} steps in a row were "
                    "skipped, for their loss or gradient was not finite, and no finite figure of a validation speaks "
                    "for the weights. What was saved before is intact. A lower `learning_rate` or a longer warm-up "
                    "may do."
                )
            return last
        return True

    def report(self) -> None:
        """Say how many steps were skipped, if any were."""
        if self.skipped:
            self.accelerator.print(f"Steps skipped for a loss or gradient that is not finite: {self.skipped}.")

    def check_weights(self, step: int, tensors: Iterable[torch.Tensor]) -> None:
        """
        Raises:
            DivergenceError: if any of them is not finite, in any process.
        """
        parts = (tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors)
        if anywhere(self.accelerator, not all(bool(part.isfinite().all()) for part in parts)):
            raise DivergenceError(
                f"Stopped after step {step}: the weights are not finite, and are not saved. What was saved before is "
                "intact. A lower `learning_rate` or a longer warm-up may do."
            )

    def state_dict(self) -> dict[str, int]:
        """The counts, the same in all processes."""
        return {"skipped_steps": self.skipped, "skipped_in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict) -> None:
        """Go on where another run stopped; older ones counted nothing."""
        self.skipped, self.in_a_row = state.get("skipped_steps", 0), state.get("skipped_in_a_row", 0)


def finite_or_none(value: float | None) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if value is not None and math.isfinite(value) else None
