"""Two-level scheduler of Difference Transition Matching."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from pydantic import Field

from dtm_hf.validation import CheckedConfigMixin

from .solvers import HEAD_SOLVERS, MAX_STEPS, check_num_steps, effective_solver, second_node
from .time_grids import TIME_GRIDS, given_grid, time_grid


@dataclass
class DTMSchedulerOutput(BaseOutput):
    """
    Output of [`DTMScheduler.step`] and [`DTMScheduler.head_step`].

    Args:
        prev_sample (`torch.Tensor`):
            The state after the step: X_{t'} of the global flow, or Y at the next inner time.
    """

    prev_sample: torch.Tensor


class DTMScheduler(CheckedConfigMixin, SchedulerMixin, ConfigMixin):
    """
    Two-level scheduler: a few global steps, each with a few calls of a flow head.

    A global step moves X_t to X_{t'} = X_t + (t' - t) Y along a *sampled* displacement Y = X_1 - X_0. Y is drawn by
    integrating the head's velocity dY/ds from Y_0 ~ N(0, I) at s=0 to s=1. With `num_head_steps=0` there is no inner
    flow: Y is the backbone's velocity, and the loop is the Euler sampler of F5-TTS.

    Times follow F5-TTS: t=0 is noise and t=1 is data. Algorithm 4 of [Transition
    Matching](https://huggingface.co/papers/2506.23589).

    One Euler head call gives Y = v (the inner flow's velocity at s=0 is v - Y_0), so it cannot differ from plain
    Euler, but for guidance that is baked into the head: then it is guided Euler at half the passes. Few Euler calls
    draw too little spread (standard deviation 0.50 of the true one with two), midpoint calls draw nearly all of it
    (1.00 with two). Hence the default.

    Args:
        num_inference_steps (`int`, defaults to 8):
            Global steps T, one backbone pass each.
        num_head_steps (`int`, defaults to 2):
            Head *calls* a global step; even for `"midpoint"` and `"heun"`, which take two an interval. 1: Euler's one
            step, whatever the solver: the mean that the head predicts, with nothing drawn. 0: no head.
        head_solver (`str`, defaults to `"midpoint"`):
            `"midpoint"`, `"euler"` or `"heun"`. Heun's last interval takes its second slope at two thirds (Ralston's
            node): at s=1 the velocity of a residual head is 0/0.
        time_grid (`str`, defaults to `"sway"`):
            `"sway"`, `"uniform"` or `"epss"`.
        sway_coefficient (`float`, defaults to -1.0):
            Coefficient of sway sampling, in [-1, 2 / (pi - 2)]; outside the grid is not monotone.
    """

    _compatibles = []
    order = 1

    @register_to_config
    def __init__(
        self,
        num_inference_steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 8,
        num_head_steps: Annotated[int, Field(ge=0, le=MAX_STEPS)] = 2,
        head_solver: Literal["midpoint", "euler", "heun"] = "midpoint",
        time_grid: Literal["sway", "uniform", "epss"] = "sway",
        sway_coefficient: float = -1.0,
    ):
        if head_solver not in HEAD_SOLVERS:
            raise ValueError(f"`head_solver` must be one of {HEAD_SOLVERS}, but got {head_solver!r}.")
        if time_grid not in TIME_GRIDS:
            raise ValueError(f"`time_grid` must be one of {tuple(TIME_GRIDS)}, but got {time_grid!r}.")
        if not -1.0 <= sway_coefficient <= 1.7519:
            raise ValueError(f"`sway_coefficient` must lie in [-1, 2 / (pi - 2)], but got {sway_coefficient}.")
        self.set_timesteps(num_inference_steps, num_head_steps)

    @classmethod
    def _get_compatibles(cls) -> list[type]:
        # diffusers looks for the class itself in its own package alone.
        return [cls]

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the initial noise X_0, and of Y_0."""
        return 1.0

    @property
    def step_index(self) -> int | None:
        """Global step that comes next; `None` before the first."""
        return self._step_index

    def scale_model_input(self, sample: torch.Tensor, timestep: torch.Tensor | None = None) -> torch.Tensor:
        """Nothing to scale; for interchangeability with other schedulers."""
        return sample

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        num_head_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | torch.Tensor | None = None,
    ) -> None:
        """
        Fix the two schedules of a run.

        Sets `timesteps` (`(T,)`, the times of the backbone passes, in [0, 1)) and `head_timesteps` (`(S,)`, the inner
        time of each head call).

        Args:
            num_inference_steps (`int`, *optional*): T; from the configuration by default.
            num_head_steps (`int`, *optional*): S, head calls a global step; from the configuration by default.
            device (`str` or `torch.device`, *optional*): Where the times live.
            timesteps (`list[float]`, *optional*):
                The T times in the place of the configured grid: rising, in [0, 1). The last step ends at t=1.

        Raises:
            ValueError: for fewer than one global step, negative head calls, more than 1000 of either or 10,000 head
            calls in all, an odd number of head calls above 1 with a two-call solver, or `timesteps` that do not rise
            in [0, 1) or are not `num_inference_steps`.
        """
        config = self.config
        steps = num_inference_steps
        if steps is None:
            steps = config.num_inference_steps if timesteps is None else len(timesteps)
        calls = config.num_head_steps if num_head_steps is None else num_head_steps
        check_num_steps(steps, calls)
        head_solver = effective_solver(config.head_solver, calls)
        if timesteps is None:
            grid = time_grid(config.time_grid, steps, config.sway_coefficient)
        else:
            grid = given_grid(timesteps)
            if len(timesteps) != steps:
                raise ValueError(
                    f"`timesteps` must be as many as `num_inference_steps`, {steps}, but got {len(timesteps)}."
                )
        self._head_solver, self._grid = head_solver, grid.to(device)
        self.num_inference_steps, self.num_head_steps = steps, calls
        self.timesteps = self._grid[:-1]
        self.head_timesteps = self._head_nodes().to(device)
        # Step sizes as Python numbers: reading them from the device would make each step wait for it.
        self._deltas = self._grid.diff().tolist()
        self._step_index = None
        self._reset_head()

    def _head_nodes(self) -> torch.Tensor:
        calls = self.num_head_steps
        if calls == 0:
            return torch.zeros(0)
        if self._head_solver == "euler":
            return torch.arange(calls, dtype=torch.float32) / calls
        intervals = calls // 2
        starts = torch.arange(intervals, dtype=torch.float32) / intervals
        nodes = torch.tensor([second_node(self._head_solver, i, intervals) for i in range(intervals)])
        return torch.stack([starts, starts + nodes / intervals], dim=1).flatten()

    def _reset_head(self) -> None:
        self._head_index = 0
        self._head_start: torch.Tensor | None = None
        self._head_slope: torch.Tensor | None = None

    def add_noise(
        self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor | float
    ) -> torch.Tensor:
        """
        X_t = (1 - t) X_0 + t X_1; the inner flow's Y_s = (1 - s) Y_0 + s Y is the same line.

        Args:
            original_samples (`torch.Tensor` of shape `(B, ...)`): data X_1.
            noise (`torch.Tensor` of shape `(B, ...)`): X_0.
            timesteps (`float` or `torch.Tensor` of shape `()` or `(B,)`): t.
        """
        t = torch.as_tensor(timesteps, device=original_samples.device, dtype=original_samples.dtype)
        t = t.reshape(*t.shape, *(1,) * (original_samples.ndim - t.ndim))
        return (1 - t) * noise + t * original_samples

    def head_step(
        self,
        model_output: torch.Tensor,
        flow_time: torch.Tensor | float,
        sample: torch.Tensor,
        return_dict: bool = True,
    ) -> DTMSchedulerOutput | tuple[torch.Tensor]:
        """
        Advance the inner flow by one head call. Calls come in the order of `head_timesteps`.

        Args:
            model_output (`torch.Tensor`): the head's velocity g at `flow_time`.
            flow_time (`float` or `torch.Tensor`): the entry of `head_timesteps` it was taken at.
            sample (`torch.Tensor`): Y at that time.

        Returns:
            Y at the next entry of `head_timesteps`; after the last, Y at s=1.
        """
        if self._head_index >= self.num_head_steps:
            raise ValueError(f"The inner flow of {self.num_head_steps} head calls is complete: `step` comes next.")
        index = self._head_index
        self._head_index += 1
        if self._head_solver == "euler":
            sample = sample + model_output / self.num_head_steps
        else:
            intervals = self.num_head_steps // 2
            node = second_node(self._head_solver, index // 2, intervals)
            if index % 2 == 0:
                self._head_start, self._head_slope = sample, model_output
                sample = sample + model_output * (node / intervals)
            else:
                # Two-stage second-order Runge-Kutta: weights 1 - 1/(2a) and 1/(2a) for a second slope at a.
                weight = 1 / (2 * node)
                slope = model_output if weight == 1 else (1 - weight) * self._head_slope + weight * model_output
                sample = self._head_start + slope / intervals
                self._head_start = self._head_slope = None
        return DTMSchedulerOutput(prev_sample=sample) if return_dict else (sample,)

    def step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor | float,
        sample: torch.Tensor,
        return_dict: bool = True,
    ) -> DTMSchedulerOutput | tuple[torch.Tensor]:
        """
        Advance the global flow: X_{t'} = X_t + (t' - t) Y.

        Args:
            model_output (`torch.Tensor`): displacement Y at the end of the inner flow, or the velocity v without a
                head.
            timestep (`float` or `torch.Tensor`): the entry of `timesteps` it belongs to.
            sample (`torch.Tensor`): X_t.
        """
        if self._head_index not in (0, self.num_head_steps):
            raise ValueError(
                f"`step` called after {self._head_index} of {self.num_head_steps} head calls: Y is unfinished."
            )
        if self._step_index is None:
            self._step_index = self._index_of(timestep)
        if self._step_index >= self.num_inference_steps:
            raise ValueError(f"All {self.num_inference_steps} steps are taken; call `set_timesteps` to start again.")
        sample = sample + self._deltas[self._step_index] * model_output
        self._step_index += 1
        self._reset_head()
        return DTMSchedulerOutput(prev_sample=sample) if return_dict else (sample,)

    def _index_of(self, timestep: torch.Tensor | float) -> int:
        distance = (self._grid[:-1].cpu().double() - float(timestep)).abs()
        index = int(distance.argmin())
        if distance[index] > 1e-6:
            raise ValueError(f"`timestep` must be one of `timesteps`, but got {float(timestep)}.")
        return index

    def __len__(self) -> int:
        return self.num_inference_steps


__all__ = ["DTMScheduler", "DTMSchedulerOutput"]
