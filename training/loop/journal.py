"""What a run writes down while it trains: its log, and the rows that it could not use."""

from collections import Counter
from pathlib import Path

from accelerate import Accelerator

from dtm_hf.training.loop.figures import FigureWindow, append_lines, drop_later_lines
from dtm_hf.training.loop.finite import finite_or_none


class Journal:
    """
    The figures between two log lines, and what has been counted since the run began. Each process has one; the main
    process writes `log.jsonl` and tells the trackers, and every process its own `bad_rows-0.jsonl`.

    Args:
        accelerator (`Accelerator`): of the run.
        folder (`Path`): of the run.
        unit (`str`): what batches are counted in, in the plural.
    """

    def __init__(self, accelerator: Accelerator, folder: Path, unit: str):
        self.accelerator, self.unit = accelerator, unit
        self.window = FigureWindow()
        #: Trained on by all processes up to the last log line, repeats counted.
        self.units = 0
        self.bad_rows: Counter = Counter()
        self.dropped: Counter = Counter()
        self._folder, self._log = folder, folder / "log.jsonl"
        self._bad_rows = folder / f"bad_rows-{accelerator.process_index}.jsonl"

    def count(self, step: int, raw: dict, units: int, padded_units: int) -> None:
        """A batch as the loader gave it, and its size without padding and with it."""
        self.window.units += units
        self.window.padded_units += padded_units
        self.bad_rows.update(raw["bad_rows"])
        self.dropped.update(raw["dropped"])
        if raw["bad_row_details"]:
            append_lines(self._bad_rows, step, raw["bad_row_details"])

    def window_figures(self) -> dict[str, float | None]:
        """Figures since the last call, over all processes, each of which must make this call."""
        figures = self.window.figures(self.accelerator, self.bad_rows, self.dropped, self.unit)
        self.window = FigureWindow()
        self.units += figures.pop(self.unit)
        return figures

    def log(self, step: int, figures: dict[str, float | None]) -> None:
        """Write a line of the log, null for what is not finite; the main process alone does."""
        if not figures or not self.accelerator.is_main_process:
            return
        figures = {name: finite_or_none(value) for name, value in figures.items()}
        append_lines(self._log, step, [figures])
        self.accelerator.log({name: value for name, value in figures.items() if value is not None}, step=step)

    def report_rows(self) -> None:
        """Say how many rows the main process left out, and why."""
        for name, reasons in (("skipped", self.bad_rows), ("dropped", self.dropped)):
            if reasons:
                summary = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
                self.accelerator.print(f"Rows {name} by the main process: {summary}.")

    def forget_after(self, step: int) -> None:
        """
        Remove the lines that a run of however many processes wrote after `step`, and those that cannot be read; the
        main process alone does, before any other writes.
        """
        if not self.accelerator.is_main_process:
            return
        for path in (self._log, *sorted(self._folder.glob("bad_rows-*.jsonl"))):
            broken = drop_later_lines(path, step)
            if broken:
                lines = "1 line was" if broken == 1 else f"{broken} lines were"
                self.accelerator.print(f"{path.name}: {lines} removed, which could not be read.")

    def state_dict(self) -> dict:
        """What differs between the processes, as JSON holds it without loss."""
        return {"bad_rows": self.bad_rows, "dropped": self.dropped, "window": self.window.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Go on where another run of the same process stopped."""
        self.bad_rows, self.dropped = Counter(state["bad_rows"]), Counter(state["dropped"])
        self.window = FigureWindow.from_state_dict(state["window"], self.accelerator.device)
