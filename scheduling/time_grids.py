"""Global time grids: 0 = t_0 < ... < t_T = 1."""

import math

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
