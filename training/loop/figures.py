"""What a run writes down while it trains: the figures of a window of steps, and the files of JSON lines."""

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from dtm_hf.files import written_aside
from dtm_hf.training.loop.monitoring import LossWindow
from dtm_hf.training.objectives.losses import LossOutput

_OLD_NAMES = {"units": "frames", "padded_units": "padded_frames"}


@dataclass
class FigureWindow:
    """
    What one process gathers between two log lines.

    Args:
        losses: of its batches.
        details: the losses by time.
        units: processed, without padding.
        padded_units: processed, with padding.
        grad_norm: of the last step, none if it was skipped.
        waited: seconds without a batch.
        began: on the clock of `time.perf_counter`.
    """

    losses: list[torch.Tensor] = field(default_factory=list)
    details: LossWindow = field(default_factory=LossWindow)
    units: int = 0
    padded_units: int = 0
    grad_norm: torch.Tensor | float | None = None
    waited: float = 0.0
    began: float = field(default_factory=time.perf_counter)

    def add(self, output: LossOutput, prefix: str = "") -> None:
        """Count the loss of a batch in; neither copies to the host nor waits for the device."""
        if prefix:
            self.details.add_figure(f"{prefix}loss", output.loss)
        else:
            self.losses.append(output.loss.detach())
        self.details.add(output, prefix)

    def add_step(self, outputs: list[LossOutput], grad_norm: torch.Tensor, prefix: str = "") -> None:
        """
        Count the losses of a step in, none if it was skipped, and the norm of its gradient before it was clipped; with
        a prefix the mean of the window is shown.
        """
        for output in outputs:
            self.add(output, prefix)
        if not prefix:
            self.grad_norm = grad_norm if outputs else None
        elif outputs:
            self.details.add_figure(f"{prefix}grad_norm", grad_norm)

    def figures(self, accelerator, bad_rows: Counter, dropped: Counter, unit: str) -> dict[str, float | None]:
        """Figures over all processes, each of which must make this call; `unit` names what is counted."""
        seconds = time.perf_counter() - self.began
        # MPS has no float64; a window of its one process stays far below 2^24 frames.
        exact = torch.float32 if accelerator.device.type == "mps" else torch.float64
        counts = [self.units, self.padded_units, bad_rows.total(), dropped.total(), self.waited]
        counts = accelerator.reduce(torch.tensor(counts, dtype=exact, device=accelerator.device), "sum").tolist()
        units, padded_units, bad, left_out, waited = counts
        # None where all steps were skipped, which they are in all processes.
        loss = float(accelerator.reduce(torch.stack(self.losses).float().mean(), "mean")) if self.losses else None
        return {
            "loss": loss,
            unit: int(units),
            f"{unit}_per_second": units / seconds,
            "padding_share": 1 - units / padded_units,
            "data_wait_share": waited / seconds / accelerator.num_processes,
            "bad_rows": int(bad),
            "dropped_rows": int(left_out),
            "grad_norm": None if self.grad_norm is None else float(self.grad_norm),
        } | self.details.figures(partial(accelerator.reduce, reduction="sum"))

    def state_dict(self) -> dict:
        """The window so far, as JSON holds it without loss."""
        return {
            "losses": [float(loss) for loss in self.losses],
            "details": self.details.state_dict(),
            "units": self.units,
            "padded_units": self.padded_units,
        }

    @classmethod
    def from_state_dict(cls, state: dict, device: torch.device) -> "FigureWindow":
        """Go on with a window that another run began."""
        losses = [torch.tensor(loss, device=device) for loss in state["losses"]]
        # What is counted was once called frames, whatever it was.
        units, padded_units = (state[name] if name in state else state[old] for name, old in _OLD_NAMES.items())
        window = cls(losses, units=units, padded_units=padded_units)
        window.details.load_state_dict(state["details"], device)
        return window


def append_lines(path: Path, step: int, entries: list[dict]) -> None:
    """Add JSON lines that name their step."""
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(json.dumps({"step": step} | entry, allow_nan=False) + "\n" for entry in entries)


def drop_later_lines(path: Path, step: int) -> int:
    """
    Remove what a run wrote after the step that it is about to go on from, and will write again. Lines that cannot be
    read, half lines of a killed run among them, go too; returns how many.
    """
    if not path.is_file():
        return 0
    content, kept, broken = path.read_bytes(), [], 0
    for line in content.split(b"\n"):
        try:
            if line.strip() and json.loads(line)["step"] <= step:
                kept.append(line + b"\n")
        except (ValueError, TypeError, KeyError, RecursionError):
            broken += 1
    if b"".join(kept) != content:
        with written_aside(path) as aside:
            aside.write_bytes(b"".join(kept))
    return broken
