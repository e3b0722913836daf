"""Global time grids: 0 = t_0 < ... < t_T = 1."""

import math
from collections.abc import Sequence

import torch

from .epss import EPSS_INDICES

TIME_GRIDS = ("sway", "uniform", "epss")


def sway(t: torch.Tensor, coefficient: float) -> torch.Tensor:
    """Sway sampling (F5-TTS, section 3.3): t + c (cos(pi t / 2) - 1 + t); c = -1 puts the steps near the noise."""
    return t + coefficient * (torch.cos(math.pi / 2 * t) - 1 + t)


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
        raise ValueError(f"`time_grid` must be one of {TIME_GRIDS}, but got {name!r}.")
    if name == "epss" and num_inference_steps in EPSS_INDICES:
        t = torch.tensor(EPSS_INDICES[num_inference_steps], dtype=dtype) / 32
    else:
        t = torch.linspace(0, 1, num_inference_steps + 1, dtype=dtype)
    return t if name == "uniform" else sway(t, sway_coefficient)


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
