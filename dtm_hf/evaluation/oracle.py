"""The best any flow head could do: the inner velocity of the joint posterior, computed from the backbone itself."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from dtm_hf.head.contract import DTMHeadOutput


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


class OracleHead(nn.Module):
    """
    A flow head with g* in the place of what a trained one has learned: what [`DTMPipeline`] asks of a head, answered
    by the backbone that the pipeline runs. No pipeline is saved with it; [`oracle_head`] makes one for a while.

    It has no view of X_t and of the conditions, which a trained head sees through the features: the backbone's last
    call is kept and made again at (x*, t*). With guidance, both branches are, and the pipeline guides g*.
    """

    def __init__(self, backbone: nn.Module):
        super().__init__()
        # Not as a submodule: what moves or offloads the head must not do so to the backbone.
        object.__setattr__(self, "_backbone", backbone)
        self.config = SimpleNamespace(guidance_scale=None, guidance_scale_range=None)
        self._last_call: dict[str, Any] | None = None
        self._asking = False

    @property
    def device(self) -> torch.device:
        return self._backbone.device

    @property
    def dtype(self) -> torch.dtype:
        return self._backbone.dtype

    def remember(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the backbone; the head's own calls are none of the loop's."""
        if not self._asking:
            self._last_call = inspect.signature(module.forward).bind(*args, **kwargs).arguments

    def prepare_schedule(
        self, timesteps: torch.Tensor, flow_times: torch.Tensor, guidance_scale: float | None = None
    ) -> torch.Tensor:
        """Nothing to modulate: `(T, S)` of zeros, since the loop goes through them."""
        return torch.zeros(len(timesteps), len(flow_times))

    def prepare(self, hidden_states: torch.Tensor) -> None:
        """Features are not read."""

    def forward(
        self,
        hidden_states: None,
        flow_state: torch.Tensor,
        flow_time: torch.Tensor | float,
        *,
        timestep: torch.Tensor | float,
        **kwargs,
    ) -> DTMHeadOutput:
        """
        Args:
            flow_state (`torch.Tensor` of shape `(B, N, M)`): Y_s; `2B` rows where the backbone ran both branches.
            flow_time (`float` or `torch.Tensor` of shape `()`): s in [0, 1).
            timestep (`float` or `torch.Tensor` of shape `()`): t in [0, 1).
            **kwargs: What else a trained head reads; not used.

        Raises:
            RuntimeError: if the backbone has not been called.
        """
        if self._last_call is None:
            raise RuntimeError("`OracleHead` answers after a call of its backbone, and there was none.")
        x_t = self._last_call["sample"].to(flow_state.dtype)
        rows = len(x_t)

        def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            # With both branches the halves of x are the same state, and the backbone doubles it by itself.
            call = self._last_call | {"sample": x[:rows], "timestep": t[:rows]}
            self._asking = True
            try:
                return self._backbone(**call).velocity.to(x.dtype)
            finally:
                self._asking = False

        x_t = x_t.repeat(len(flow_state) // rows, 1, 1)
        g = joint_inner_velocity(velocity, x_t, flow_state, timestep, flow_time)
        return DTMHeadOutput(velocity=g, displacement=flow_state + (1 - flow_time) * g)


@contextmanager
def oracle_head(backbone: nn.Module) -> Iterator[OracleHead]:
    """An [`OracleHead`] that listens to a backbone as long as the block lasts."""
    head = OracleHead(backbone)
    handle = backbone.register_forward_pre_hook(head.remember, with_kwargs=True)
    try:
        yield head
    finally:
        handle.remove()
