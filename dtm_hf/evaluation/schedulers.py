"""Schedulers of the arms that `DTMScheduler` has no grid for. All run without a head, on the sway grid by default."""

from collections.abc import Callable

import torch

from dtm_hf.scheduling.scheduling_dtm import DTMScheduler, DTMSchedulerOutput


class MidpointScheduler(DTMScheduler):
    """
    The midpoint rule on the global flow: X_{t'} = X_t + (t' - t) v(X_m, m), X_m = X_t + (m - t) v(X_t, t) and
    m = (t + t') / 2.

    What `f5_tts.model.CFM` does with `odeint_kwargs=dict(method="midpoint")`. `timesteps` holds the 2T times of the
    backbone passes, middles included. Arguments as in [`DTMScheduler`].

    Raises:
        ValueError: for head calls; the inner flow has a displacement, not a velocity, to give.
    """

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        num_head_steps: int | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        super().set_timesteps(num_inference_steps, num_head_steps, device)
        if self.num_head_steps:
            raise ValueError(f"`num_head_steps` must be 0 for the midpoint rule, but got {self.num_head_steps}.")
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


class RenoiseScheduler(DTMScheduler):
    r"""
    Euler that jumps ahead and takes the way back with fresh noise: a control, which is as random as a flow head and
    knows nothing of its distribution ([Design space of Transition Matching](https://huggingface.co/papers/2512.12465)).

        t'' = t' + c (1 - t'),    X_{t''} = X_{t'} + (t'' - t') Y,
        X_{t'} <- (t' / t'') X_{t''} + beta eps,    beta^2 = (1 - t')^2 - (t' / t'')^2 (1 - t'')^2

    so that the noise in X_{t'} has the standard deviation 1 - t' again. After the last step nothing is renoised; with
    c = 0 it is Euler.

    Args:
        draw (`Callable[[], torch.Tensor]`): Standard normal eps of the shape of the sample, `(B, N, M)`.
        jump (`float`): c in [0, 1].
        **config: As in [`DTMScheduler`].
    """

    def __init__(self, draw: Callable[[], torch.Tensor], jump: float, **config):
        super().__init__(**config)
        if not 0 <= jump <= 1:
            raise ValueError(f"`jump` must lie in [0, 1], but got {jump}.")
        self._draw, self._jump = draw, jump

    def step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor | float,
        sample: torch.Tensor,
        return_dict: bool = True,
    ) -> DTMSchedulerOutput | tuple[torch.Tensor]:
        """Euler, then ahead and back."""
        sample = super().step(model_output, timestep, sample).prev_sample
        if self._step_index < self.num_inference_steps:
            time = float(self._grid[self._step_index])
            ahead = time + self._jump * (1 - time)
            beta = max((1 - time) ** 2 - (time / ahead * (1 - ahead)) ** 2, 0.0) ** 0.5
            sample = time / ahead * (sample + (ahead - time) * model_output) + beta * self._draw()
        return DTMSchedulerOutput(prev_sample=sample) if return_dict else (sample,)


class NoisyEndScheduler(DTMScheduler):
    """
    Euler, with white noise added to where it ends: a control, since what a distance of distributions gains from a
    tuned noise is not speech.

    Args:
        draw (`Callable[[], torch.Tensor]`): Standard normal of the shape of the sample, `(B, N, M)`.
        std (`float`): Standard deviation of the noise, in log-mel units.
        **config: As in [`DTMScheduler`].
    """

    def __init__(self, draw: Callable[[], torch.Tensor], std: float, **config):
        super().__init__(**config)
        if not std >= 0:
            raise ValueError(f"`std` must be at least 0, but got {std}.")
        self._draw, self._std = draw, std

    def step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor | float,
        sample: torch.Tensor,
        return_dict: bool = True,
    ) -> DTMSchedulerOutput | tuple[torch.Tensor]:
        """Euler; the last step with the noise."""
        sample = super().step(model_output, timestep, sample).prev_sample
        if self._step_index == self.num_inference_steps:
            sample = sample + self._std * self._draw()
        return DTMSchedulerOutput(prev_sample=sample) if return_dict else (sample,)


__all__ = ["MidpointScheduler", "NoisyEndScheduler", "RenoiseScheduler"]
