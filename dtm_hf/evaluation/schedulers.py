"""Schedulers of the arms that `DTMScheduler` cannot run, without a head and on the sway grid by default."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch

from dtm_hf.scheduling.scheduling_dtm import DTMScheduler, DTMSchedulerOutput


class HeadlessScheduler(DTMScheduler):
    """
    Of a solver of the global flow. Arguments as in [`DTMScheduler`].

    Raises:
        ValueError: for head calls; the inner flow has a displacement, not a velocity, to give.
    """

    _solver: ClassVar[str]

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        num_head_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | torch.Tensor | None = None,
    ) -> None:
        super().set_timesteps(num_inference_steps, num_head_steps, device, timesteps)
        if self.num_head_steps:
            raise ValueError(f"`num_head_steps` must be 0 for {self._solver}, but got {self.num_head_steps}.")
        self._begin()

    def _begin(self) -> None:
        """Get ready for a walk."""
        raise NotImplementedError


class MidpointScheduler(HeadlessScheduler):
    """
    The midpoint rule on the global flow: X_{t'} = X_t + (t' - t) v(X_m, m), X_m = X_t + (m - t) v(X_t, t) and
    m = (t + t') / 2.

    What `f5_tts.model.CFM` does with `odeint_kwargs=dict(method="midpoint")`. `timesteps` holds the 2T times of the
    backbone passes, middles included.
    """

    _solver = "the midpoint rule"

    def _begin(self) -> None:
        starts, steps = self._grid[:-1], self._grid.diff()
        self.timesteps = torch.stack([starts, starts + steps / 2], dim=1).flatten()
        self._start: torch.Tensor | None = None

    def step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor | float,
        sample: torch.Tensor,
        return_dict: bool = True,
    ) -> DTMSchedulerOutput | tuple[torch.Tensor]:
        """Half a step: from X_t to X_m, or with the velocity at X_m from X_t to X_{t'}."""
        if self._start is None:
            index = 0 if self._step_index is None else self._step_index
            if index >= self.num_inference_steps:
                raise ValueError(f"All {index} steps are taken; call `set_timesteps` to start again.")
            self._start = sample
            sample = sample + self._deltas[index] / 2 * model_output
            return DTMSchedulerOutput(prev_sample=sample) if return_dict else (sample,)
        start, self._start = self._start, None
        # The step itself begins at X_t, the time before the middle.
        return super().step(model_output, self._grid[self._step_index or 0], start, return_dict)


class MultistepScheduler(HeadlessScheduler):
    """
    A solver that remembers the step before: the sample moves along a velocity that both give. Its first step is
    Euler's.
    """

    _solver = "a multistep solver"

    def _begin(self) -> None:
        # Python numbers, as the step sizes are.
        self._times = self._grid.tolist()
        self._before: torch.Tensor | None = None

    def step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor | float,
        sample: torch.Tensor,
        return_dict: bool = True,
    ) -> DTMSchedulerOutput | tuple[torch.Tensor]:
        """From X_t to X_{t'}."""
        index = self._index_of(timestep) if self._step_index is None else self._step_index
        if index < self.num_inference_steps:
            model_output = self._improved(model_output, index, sample)
        return super().step(model_output, timestep, sample, return_dict)

    def _improved(self, velocity: torch.Tensor, index: int, sample: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class AdamsBashforthScheduler(MultistepScheduler):
    """Second order: v_k + D_k / (2 D_{k-1}) (v_k - v_{k-1}), with D the lengths of the steps."""

    def _improved(self, velocity: torch.Tensor, index: int, sample: torch.Tensor) -> torch.Tensor:
        before, self._before = self._before, velocity
        if before is None:
            return velocity
        return velocity + self._deltas[index] / (2 * self._deltas[index - 1]) * (velocity - before)


class DPMSolverScheduler(MultistepScheduler):
    """
    DPM-Solver++(2M) (arXiv 2211.01095) on the linear path, alpha = t and sigma = 1 - t. The estimate of the data,
    X_t + (1 - t) v, is extrapolated in lambda = log(alpha / sigma). The steps at either end, where lambda is infinite,
    and the one after the first, whose step before is infinitely long, are Euler's.
    """

    def _improved(self, velocity: torch.Tensor, index: int, sample: torch.Tensor) -> torch.Tensor:
        t = self._times[index]
        estimate = sample + (1 - t) * velocity
        before, self._before = self._before, estimate
        if before is None or self._times[index - 1] == 0 or index == self.num_inference_steps - 1:
            return velocity
        last, here, after = (math.log(time / (1 - time)) for time in self._times[index - 1 : index + 2])
        extrapolated = estimate + (after - here) / (2 * (here - last)) * (estimate - before)
        return (extrapolated - sample) / (1 - t)


__all__ = ["AdamsBashforthScheduler", "DPMSolverScheduler", "MidpointScheduler"]
