"""The best any flow head could do: the inner velocity of the joint posterior, computed from the backbone itself."""

from collections.abc import Callable

import torch


def joint_inner_velocity(
    velocity: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    x_t: torch.Tensor,
    y_s: torch.Tensor,
    t: torch.Tensor | float,
    s: torch.Tensor | float,
) -> torch.Tensor:
    r"""
    Velocity g* = (E[Y | X_t, Y_s] - Y_s) / (1 - s) of the inner flow, exact for a backbone whose velocity is exact.

    Derivation. Both states are noisy looks at the data X_1 with independent noises X_0 and Y_0:

        X_t = t X_1 + (1-t) X_0,    W := (1-t) Y_s + s X_t = s X_1 + (1-t)(1-s) Y_0    (with Y = X_1 - X_0)

    so X_t / t has precision P1 = t^2 / (1-t)^2 about X_1, and W / s has P2 = s^2 / ((1-t)(1-s))^2. Together they say
    as much as their precision-weighted mean, one look of precision q^2 = P1 + P2. The backbone's own state at a later
    time t* is such a look, of precision t*^2 / (1-t*)^2, hence

        t* = q / (1+q),    x* = t* [t X_t / (1-t)^2 + s W / ((1-t)(1-s))^2] / (P1 + P2)
        E[X_1 | X_t, Y_s] = x* + (1-t*) v(x*, t*),    E[Y | X_t, Y_s] = (E[X_1 | X_t, Y_s] - X_t) / (1-t)

    All frames of an utterance share one s, as they share one t. Each call costs a backbone pass.

    Args:
        velocity (`Callable`): v(x, t), the backbone with its conditions; t has shape `(B,)`.
        x_t (`torch.Tensor` of shape `(B, N, M)`): state of the global flow.
        y_s (`torch.Tensor` of shape `(B, N, M)`): state of the inner flow.
        t (`float` or `torch.Tensor` of shape `()` or `(B,)`): global time in [0, 1).
        s (`float` or `torch.Tensor` of shape `()` or `(B,)`): inner time in [0, 1).

    Returns:
        `torch.Tensor` of shape `(B, N, M)`: g*; the expected displacement is `y_s + (1 - s) * g*`.

    Raises:
        ValueError: for a time outside [0, 1).
    """
    t, s = (_time(name, value, x_t) for name, value in (("t", t), ("s", s)))
    w = (1 - t) * y_s + s * x_t
    p_1, p_2 = (t / (1 - t)) ** 2, (s / ((1 - t) * (1 - s))) ** 2
    precision = p_1 + p_2
    q = precision.sqrt()
    t_star = q / (1 + q)
    look = t * x_t / (1 - t) ** 2 + s * w / ((1 - t) * (1 - s)) ** 2
    # At t = s = 0 nothing is known: any noise is as good a state as X_0.
    x_star = torch.where(precision > 0, t_star * look / precision.clamp(min=torch.finfo(x_t.dtype).tiny), x_t)
    x_1 = x_star + (1 - t_star) * velocity(x_star, t_star.reshape(-1).expand(len(x_t)))
    return ((x_1 - x_t) / (1 - t) - y_s) / (1 - s)


def _time(name: str, value: torch.Tensor | float, state: torch.Tensor) -> torch.Tensor:
    time = torch.as_tensor(value, device=state.device, dtype=state.dtype)
    if not ((time >= 0) & (time < 1)).all():
        raise ValueError(f"`{name}` must lie in [0, 1), but got {time.tolist()}.")
    return time.reshape(-1, *(1,) * (state.ndim - 1))
