"""Global times for a head, searched on sentences that judge nothing else; used by `trained_ablations.py`."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from dtm_hf import DTMScheduler
from dtm_hf.evaluation.arms import Arm
from dtm_hf.evaluation.benchmark import Benchmark, item_seed
from dtm_hf.evaluation.metric import BenchmarkItem
from dtm_hf.evaluation.statistics import ratio
from dtm_hf.evaluation.summary import badness
from dtm_hf.scheduling.time_grids import sway

# What a grid is chosen by, each with the same weight: words, sound, and neither blur nor jitter.
SCORED = ("wer", "mel", "difference")
# Moves of a coordinate, on the scale that sway makes even; one round each.
MOVES = (0.08, 0.04)


class GridScheduler(DTMScheduler):
    """
    Global times as they are given.

    Args:
        grid (`tuple[float, ...]`): T + 1 times, ascending from 0 to 1.
        **config: As in [`DTMScheduler`].

    Raises:
        ValueError: for another grid, or, when it is run, another number of steps.
    """

    def __init__(self, grid: tuple[float, ...], **config):
        if len(grid) < 2 or grid[0] != 0 or grid[-1] != 1 or any(a >= b for a, b in pairwise(grid)):
            raise ValueError(f"`grid` must ascend from 0 to 1, but got {grid}.")
        self._times = grid
        super().__init__(num_inference_steps=len(grid) - 1, **config)

    def set_timesteps(self, num_inference_steps=None, num_head_steps=None, device=None):
        super().set_timesteps(num_inference_steps, num_head_steps, device)
        if self.num_inference_steps != len(self._times) - 1:
            raise ValueError(f"`num_inference_steps` must be {len(self._times) - 1}, got {self.num_inference_steps}.")
        self._grid = torch.tensor(self._times, dtype=torch.float32, device=device)
        self.timesteps, self._deltas = self._grid[:-1], self._grid.diff().tolist()


@dataclass
class GridBenchmark(Benchmark):
    """
    A benchmark whose arms, all `"dtm"`, take their global times from a grid.

    Args:
        grid (`tuple[float, ...]`): As of [`GridScheduler`].
    """

    grid: tuple[float, ...] = (0.0, 1.0)

    def _judge_controls(self, index: int, item: BenchmarkItem) -> int:
        """Nothing: recordings have no grid."""
        return 0

    def _sample(self, arm: Arm, seed: int, batch: list[tuple[int, BenchmarkItem]]) -> list[np.ndarray]:
        items = [item for _, item in batch]
        config = {name: self.pipe.scheduler.config[name] for name in ("head_solver", "time_grid", "sway_coefficient")}
        with _scheduled(self.pipe, GridScheduler(self.grid, **config)):
            output = self.pipe(
                [item.text for item in items],
                [(item.reference_audio, self.items.sampling_rate) for item in items],
                [item.reference_text for item in items],
                num_head_steps=arm.num_head_steps,
                generator=[torch.Generator().manual_seed(item_seed(seed, index)) for index, _ in batch],
                output_type="mel",
            )
        return [mel.float().cpu().numpy() for mel in output.audios]


@contextmanager
def _scheduled(pipe, scheduler: DTMScheduler):
    present, pipe.scheduler = pipe.scheduler, scheduler
    try:
        yield
    finally:
        pipe.scheduler = present


def sway_grid(positions: tuple[float, ...]) -> tuple[float, ...]:
    """Times of inner positions on the scale of sway sampling: `(i / T for 0 < i < T)` is the sway grid itself."""
    inner = sway(torch.tensor(positions, dtype=torch.float64), -1.0).tolist()
    return (0.0, *(round(time, 5) for time in inner), 1.0)


def coordinate_search(
    score: Callable[[tuple[float, ...]], float], start: tuple[float, ...], moves: tuple[float, ...] = MOVES
) -> tuple[tuple[float, ...], float]:
    """
    Move one inner position at a time, either way, and keep what scores less; a round for each size of `moves`.

    Args:
        score (`Callable`): Of positions; less is better.
        start (`tuple[float, ...]`): Ascending, in (0, 1).
        moves (`tuple[float, ...]`): Sizes.

    Returns:
        The best positions, and their score.
    """
    best, lowest = start, score(start)
    for move in moves:
        for index in range(len(start)):
            centre = best
            for step in (-move, move):
                tried = (*centre[:index], centre[index] + step, *centre[index + 1 :])
                if not all(a < b for a, b in pairwise((0.0, *tried, 1.0))):
                    continue
                found = score(tried)
                if found < lowest:
                    best, lowest = tried, found
    return best, lowest


def search_grid(
    benchmark: Callable[[Arm, tuple[float, ...]], GridBenchmark],
    steps: int,
    head_calls: int,
    say: Callable[[str], None] = print,
) -> tuple[float, ...]:
    """
    Times for `steps` global steps, from the sway grid on, by the sum of `SCORED` on the benchmark's sentences.

    Args:
        benchmark (`Callable`): Makes the benchmark of an arm on a grid. Its records are kept, so that a search that
            was killed goes on where it was.
        steps, head_calls (`int`): T and S.
        say (`Callable`, *optional*): Hears of each grid.
    """

    def score(positions: tuple[float, ...]) -> float:
        grid = sway_grid(positions)
        name = "-".join(f"{time:.5f}" for time in grid[1:-1])
        run = benchmark(Arm(name, "dtm", steps, head_calls), grid)
        run.run()
        ids, total = [item.id for item in run.items.items], 0.0
        for metric in run.metrics:
            pairs = run.records.figures(name, metric.name, ids, list(run.seeds))
            total += badness(metric, ratio(*pairs, draws=1).value)
        say(f"  grid {grid}: score {total:.4f}")
        return total

    best, _ = coordinate_search(score, tuple(i / steps for i in range(1, steps)))
    return sway_grid(best)
