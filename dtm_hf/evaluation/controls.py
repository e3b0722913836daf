"""The benchmark's controls, as callbacks at the end of a step: as random as a flow head, and no wiser than Euler."""

from collections.abc import Callable, Sequence

import torch

Callback = Callable[[object, int, torch.Tensor, dict], dict]
"""The pipeline's `callback_on_step_end`."""


def renoise(jump: float, times: Sequence[float], x_0: torch.Tensor, draw: Callable[[], torch.Tensor]) -> Callback:
    r"""
    Euler jumps ahead and takes the way back with fresh noise ([Design space of Transition
    Matching](https://huggingface.co/papers/2512.12465)).

        t'' = t' + c (1 - t'),    X_{t''} = X_{t'} + (t'' - t') Y,
        X_{t'} <- (t' / t'') X_{t''} + beta eps,    beta^2 = (1 - t')^2 - (t' / t'')^2 (1 - t'')^2

    so that the noise in X_{t'} has the standard deviation 1 - t' again. After the last step nothing is renoised; with
    c = 0 it is Euler. For one walk.

    Args:
        jump (`float`): c in [0, 1].
        times (sequence of `float`): The grid 0 = t_0 < ... < t_T = 1.
        x_0 (`torch.Tensor` of shape `(B, N, M)`): Where the walk begins: Y is read off its steps.
        draw (`Callable[[], torch.Tensor]`): Standard normal eps of the shape of the sample.
    """
    if not 0 <= jump <= 1:
        raise ValueError(f"`jump` must lie in [0, 1], but got {jump}.")
    before = x_0

    def callback(pipe, step: int, timestep: torch.Tensor, tensors: dict) -> dict:
        nonlocal before
        x, begin, end = tensors["latents"], times[step], times[step + 1]
        if end < 1:
            displacement = (x - before.to(x.device)) / (end - begin)
            ahead = end + jump * (1 - end)
            beta = max((1 - end) ** 2 - (end / ahead * (1 - ahead)) ** 2, 0.0) ** 0.5
            x = end / ahead * (x + (ahead - end) * displacement) + beta * draw()
        before = x
        return tensors | {"latents": x}

    return callback


def noisy_end(std: float, num_steps: int, draw: Callable[[], torch.Tensor]) -> Callback:
    """
    White noise is added to where the walk ends, since what a distance of distributions gains from a tuned noise is not
    speech.

    Args:
        std (`float`): Standard deviation of the noise, in log-mel units.
        num_steps (`int`): Steps of the walk.
        draw (`Callable[[], torch.Tensor]`): Standard normal of the shape of the sample, `(B, N, M)`.
    """
    if not std >= 0:
        raise ValueError(f"`std` must be at least 0, but got {std}.")

    def callback(pipe, step: int, timestep: torch.Tensor, tensors: dict) -> dict:
        x = tensors["latents"]
        return tensors | {"latents": x + std * draw() if step == num_steps - 1 else x}

    return callback


def one_after_the_other(*callbacks: Callback | None) -> Callback | None:
    """One callback that calls those there are, each with what the one before left."""
    present = [callback for callback in callbacks if callback is not None]
    if not present:
        return None

    def callback(pipe, step: int, timestep: torch.Tensor, tensors: dict) -> dict:
        for each in present:
            tensors = each(pipe, step, timestep, tensors)
        return tensors

    return callback
