"""What a benchmark has found so far, in a folder: figures as JSON lines, mels as arrays. It survives being killed."""

import json
import math
import os
from pathlib import Path

import numpy as np

from dtm_hf.files import written_aside


class Records:
    """
    The folder of a benchmark.

    `settings.json` says what it measures, `records.jsonl` holds one line for each arm, item and seed that is judged,
    `mels/` what was said. A line that a killed process left unfinished is dropped.

    Args:
        folder (`Path`): Made if it does not exist.
        settings (`dict`): What a figure depends on. A folder with others is refused; one that is `None`, here or
            there, was of no matter yet.

    Raises:
        ValueError: if the folder holds a benchmark with other settings.
    """

    def __init__(self, folder: Path, settings: dict):
        self.folder = folder
        self._figures: dict[tuple[str, str, int | None], dict[str, list[float] | None]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._lines = folder / "records.jsonl"
        self._check(settings)
        if self._lines.exists():
            self._read()

    def _check(self, settings: dict) -> None:
        path, settings = self.folder / "settings.json", json.loads(json.dumps(settings))
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        for name in settings.keys() & before.keys():
            if settings[name] != before[name] and None not in (settings[name], before[name]):
                raise ValueError(
                    f"`output` {str(self.folder)!r} holds a benchmark with {name} {before[name]!r}, but this one has "
                    f"{settings[name]!r}; choose another folder."
                )
        known = before | {name: value for name, value in settings.items() if value is not None or name not in before}
        if known != before:
            with written_aside(path) as aside:
                aside.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")

    def _read(self) -> None:
        text = self._lines.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):
            with self._lines.open("r+b") as file:
                file.truncate(len(whole))
        for line in whole.splitlines():
            self._keep(json.loads(line))

    def _keep(self, record: dict) -> None:
        key = record["arm"], record["item"], record["seed"]
        self._figures.setdefault(key, {}).update(record["figures"])

    def append(self, arm: str, item: str, seed: int | None, figures: dict[str, tuple[float, float] | None]) -> None:
        """
        Write down figures of one item, each a numerator and a denominator; they are on disk on return. One that is not
        a number is none.

        Raises:
            ValueError: for an infinite figure, of which no mean could be taken.
        """
        if infinite := [name for name, pair in figures.items() if pair is not None and any(map(math.isinf, pair))]:
            raise ValueError(f"The figure {infinite[0]!r} of {arm!r} on {item!r} is infinite.")
        figures = {
            name: None if pair is None or any(map(math.isnan, pair)) else pair for name, pair in figures.items()
        }
        record = {"arm": arm, "item": item, "seed": seed, "figures": figures}
        with self._lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._keep(record)

    def missing(self, arm: str, item: str, seed: int | None, metrics: list[str]) -> list[str]:
        """The metrics without a figure."""
        return [name for name in metrics if name not in self._figures.get((arm, item, seed), {})]

    def figures(
        self, arm: str, metric: str, items: list[str], seeds: list[int | None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Numerators and denominators, each of shape `(items, seeds)`; NaN where there is none."""
        pairs = np.full((2, len(items), len(seeds)), np.nan)
        for i, item in enumerate(items):
            for j, seed in enumerate(seeds):
                pair = self._figures.get((arm, item, seed), {}).get(metric)
                if pair is not None:
                    pairs[:, i, j] = pair
        return pairs[0], pairs[1]

    def mel(self, arm: str, index: int, seed: int) -> np.ndarray | None:
        """What was said, log-mel `(N, M)` in float32 or codes `(K, F)`; `None` if nothing was yet."""
        path = self._mel_path(arm, index, seed)
        return _as_read(np.load(path, allow_pickle=False)) if path.exists() else None

    def write_mel(self, arm: str, index: int, seed: int, mel: np.ndarray) -> np.ndarray:
        """
        Keep a log-mel `(N, M)` in half precision: to 0.4 % of a magnitude. Returns it as it will be read back, so that
        a figure does not depend on whether a run was interrupted. Codes `(K, F)`, which are integers, are kept as they
        are.
        """
        mel = np.asarray(mel)
        rounded = mel if mel.dtype.kind in "iu" else mel.astype(np.float16)
        with written_aside(self._mel_path(arm, index, seed)) as aside:
            np.save(aside, rounded, allow_pickle=False)
        return _as_read(rounded)

    def _mel_path(self, arm: str, index: int, seed: int) -> Path:
        return self.folder / "mels" / file_name(arm) / f"{index:04d}-{seed}.npy"


def _as_read(kept: np.ndarray) -> np.ndarray:
    return kept if kept.dtype.kind in "iu" else kept.astype(np.float32)


def file_name(arm: str) -> str:
    """An arm's name as part of a path: colons are not everywhere."""
    return arm.replace(":", "~")
