"""The schedule of [`DTMScheduler`] in numpy: global times, inner times, and the steps between them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dtm_hf.scheduling.epss import EPSS_INDICES
from dtm_hf.scheduling.solvers import check_num_steps, effective_solver, second_node

GRIDS = ("sway", "uniform", "epss")


@dataclass(frozen=True, eq=False)
class Schedule:
    """
    The times of one call.

    Args:
        grid (`np.ndarray` of shape `(T + 1,)`): global times, both ends included.
        flow_times (`np.ndarray` of shape `(S,)`): inner time of each head call.
        solver (`str`): of the inner flow.
    """

    grid: np.ndarray
    flow_times: np.ndarray
    solver: str

    @property
    def timesteps(self) -> np.ndarray:
        """`(T,)`: when the backbone runs."""
        return self.grid[:-1]

    def integrate(self, velocity: Callable[[np.ndarray, int], np.ndarray], y: np.ndarray) -> np.ndarray:
        """
        The inner flow from Y_0 to Y.

        Args:
            velocity (`Callable`): called as `velocity(y, j)` for the j-th head call; gives g.
            y (`np.ndarray` of shape `(B, N, M)`): Y_0.
        """
        calls = len(self.flow_times)
        if self.solver == "euler":
            for j in range(calls):
                y = y + velocity(y, j) / np.float32(calls)
            return y
        intervals = calls // 2
        for i in range(intervals):
            node = second_node(self.solver, i, intervals)
            first = velocity(y, 2 * i)
            second = velocity(y + first * np.float32(node / intervals), 2 * i + 1)
            # Two-stage second-order Runge-Kutta: weights 1 - 1/(2a) and 1/(2a) for a second slope at a.
            weight = np.float32(1 / (2 * node))
            slope = second if weight == 1 else (1 - weight) * first + weight * second
            y = y + slope / np.float32(intervals)
        return y


def make_schedule(
    config: Mapping[str, Any], num_inference_steps: int | None = None, num_head_steps: int | None = None
) -> Schedule:
    """
    Args:
        config (`dict`): of a [`DTMScheduler`].
        num_inference_steps (`int`, *optional*), num_head_steps (`int`, *optional*): in the place of the configured.

    Raises:
        ValueError: for numbers that there is no schedule of.
    """
    steps = config["num_inference_steps"] if num_inference_steps is None else num_inference_steps
    calls = config["num_head_steps"] if num_head_steps is None else num_head_steps
    check_num_steps(steps, calls)
    solver = effective_solver(config["head_solver"], calls)
    return Schedule(_grid(config["time_grid"], steps, config["sway_coefficient"]), _flow_times(solver, calls), solver)


def _grid(name: str, steps: int, coefficient: float) -> np.ndarray:
    if name not in GRIDS:
        raise ValueError(f"`time_grid` must be one of {GRIDS}, but got {name!r}.")
    t = np.linspace(0, 1, steps + 1)
    if name == "epss" and steps in EPSS_INDICES:
        t = np.array(EPSS_INDICES[steps]) / 32
    return (t if name == "uniform" else t + coefficient * (np.cos(math.pi / 2 * t) - 1 + t)).astype(np.float32)


def _flow_times(solver: str, calls: int) -> np.ndarray:
    if solver == "euler" or calls == 0:
        return np.arange(calls, dtype=np.float32) / max(calls, 1)
    intervals = calls // 2
    pairs = [(i, i + second_node(solver, i, intervals)) for i in range(intervals)]
    return np.float32(pairs).reshape(-1) / intervals
