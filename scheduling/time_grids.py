"""Global time grids: 0 = t_0 < ... < t_T = 1."""

import math
from collections.abc import Callable, Sequence

import torch

from .epss import EPSS_INDICES


def sway(t: torch.Tensor, coefficient: float) -> torch.Tensor:
    """Sway sampling (F5-TTS, section 3.3): t + c (cos(pi t / 2) - 1 + t); c = -1 puts the steps near the noise."""
    return t + coefficient * (torch.cos(math.pi / 2 * t) - 1 + t)


def uniform_grid(num_inference_steps: int, sway_coefficient: float, dtype: torch.dtype) -> torch.Tensor:
    return torch.linspace(0, 1, num_inference_steps + 1, dtype=dtype)


def sway_grid(num_inference_steps: int, sway_coefficient: float, dtype: torch.dtype) -> torch.Tensor:
    return sway(uniform_grid(num_inference_steps, sway_coefficient, dtype), sway_coefficient)


def epss_grid(num_inference_steps: int, sway_coefficient: float, dtype: torch.dtype) -> torch.Tensor:
    if num_inference_steps not in EPSS_INDICES:
        return sway_grid(num_inference_steps, sway_coefficient, dtype)
    return sway(torch.tensor(EPSS_INDICES[num_inference_steps], dtype=dtype) / 32, sway_coefficient)


TIME_GRIDS: dict[str, Callable[[int, float, torch.dtype], torch.Tensor]] = {
    "sway": sway_grid,
    "uniform": uniform_grid,
    "epss": epss_grid,
}
"""Grids by name: T, the sway coefficient and a dtype in, times of shape `(T + 1,)` out, both ends included."""


def time_grid(
    name: str, num_inference_steps: int, sway_coefficient: float = -1.0, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """
    Global times, both ends included.

    Args:
        name (`str`):
            `"uniform"`: evenly spaced. `"sway"`: evenly spaced, then swayed. `"epss"`: F5's pruned grid where it has
            one for this number of steps (evenly spaced elsewhere, as in f5_tts), then swayed.
        num_inference_steps (`int`): T.
        sway_coefficient (`float`, defaults to -1.0): c; unused by `"uniform"`.

    Returns:
        `torch.Tensor` of shape `(T + 1,)`.
    """
    if name not in TIME_GRIDS:
        raise ValueError(f"`time_grid` must be one of {tuple(TIME_GRIDS)}, but got {name!r}.")
    return TIME_GRIDS[name](num_inference_steps, sway_coefficient, dtype)


def given_grid(timesteps: Sequence[float] | torch.Tensor) -> torch.Tensor:
    """
    The grid of a caller's own times: these, then 1.

    Args:
        timesteps (sequence of `float` or `torch.Tensor` of shape `(T,)`): Start of each step, rising, in [0, 1).

    Returns:
        `torch.Tensor` of shape `(T + 1,)`, float32.

    Raises:
        ValueError: for no time, and for times that do not rise in [0, 1).
    """
    times = torch.as_tensor(timesteps, dtype=torch.float32).cpu()
    grid = torch.cat([times.flatten(), torch.ones(1)])
    # A time that is not a number compares as false too.
    if times.ndim != 1 or not len(times) or not (grid[0] >= 0 and (grid.diff() > 0).all()):
        raise ValueError(f"`timesteps` must be one or more times that rise in [0, 1), but got {timesteps!r}.")
    return grid
