"""
What a diffusion or flow network predicts, and how its states relate to data and noise.

Every family here has states x_t = alpha_t data + sigma_t noise with noise ~ N(0, I); they differ in the unit of t, in
alpha and sigma, and in what the network's output means. Objectives that see a network through a [`Prediction`] alone
serve F5-TTS, Flux, Stable Diffusion 3 and the epsilon models of the SDXL family alike.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch

from dtm_hf.scheduling.time_grids import time_grid

WEIGHTS = ("constant", "snr", "min_snr")
BETA_SCHEDULES = ("linear", "scaled_linear")

# That of the cleanest timestep of the `linear` schedule (beta_start 1e-4); on a flow it would grow without bound.
_MAX_SNR = 1e4
_MIN_SNR_GAMMA = 5.0


class Prediction(ABC):
    """
    The interface. Times are `torch.Tensor` of shape `(B,)` in the unit of the network; states, estimates, outputs and
    noise have shape `(B, ...)`.

    Attributes:
        noise_time (`float`): t of pure noise.
        data_time (`float`): t of clean data.
    """

    noise_time: float
    data_time: float

    @abstractmethod
    def alpha(self, t: torch.Tensor) -> torch.Tensor:
        """Share of the data in x_t."""

    @abstractmethod
    def sigma(self, t: torch.Tensor) -> torch.Tensor:
        """Standard deviation of the noise in x_t."""

    @abstractmethod
    def estimates(self, output: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The estimates of data and noise that an output at x_t stands for."""

    @abstractmethod
    def output(self, data: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The output that stands for these estimates of data and noise."""

    @abstractmethod
    def grid(self, num_steps: int) -> torch.Tensor:
        """Times of so many steps from noise to data, both ends included: `(num_steps + 1,)`."""

    @abstractmethod
    def between(self, noisier: torch.Tensor, cleaner: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        """Times at a share in [0, 1) of the way; always noisier than `cleaner`."""

    def step(self, output: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """The deterministic step from t to s: x_s = alpha_s data + sigma_s noise (DDIM; Euler's step on a flow)."""
        data, noise = self.estimates(output, x_t, t)
        return _as(self.alpha(s), data) * data + _as(self.sigma(s), data) * noise

    def diffuse(self, x_s: torch.Tensor, s: torch.Tensor, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """
        A draw from the conditional kernel q(x_t | x_s): x_t = (alpha_t / alpha_s) x_s + beta noise, with
        beta^2 = sigma_t^2 - (alpha_t sigma_s / alpha_s)^2. If x_s has the marginal of s, x_t has that of t.

        Raises:
            ValueError: if a `t` is cleaner than its `s`.
        """
        fresh = self._fresh(s, t)
        beta = self.sigma(t) * fresh
        return _as(self.alpha(t) / self.alpha(s), x_s) * x_s + _as(beta, x_s) * noise

    def regression_target(
        self, x_s: torch.Tensor, s: torch.Tensor, t: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        r"""
        What a network has to regress on at x_t = `diffuse(x_s, s, t, noise)` to become the score of these x_t.

        By Tweedie's formula the output at x_t stands for data and noise estimates with noise = -sigma_t score and
        alpha_t data = x_t - sigma_t noise. Denoising score matching (Vincent, 2011) has score = E[-eps / beta | x_t],
        so the unbiased targets are

            noise: (sigma_t / beta) eps
            data:  x_s / alpha_s - (alpha_t sigma_s^2 / (alpha_s^2 beta)) eps

        of which the output is a linear function: on F5's flow, x_s / s + ((beta^2 - (1 - t)) / (t beta)) eps; and the
        plain velocity or epsilon at clean x_s. They are finite at the noise end, and grow as 1 / beta towards s: see
        [`~Prediction.regression_weight`].

        Raises:
            ValueError: if a `t` is not noisier than its `s`.
        """
        fresh = self._fresh(s, t)
        if not bool((fresh > 0).all()):
            raise ValueError("`t` must be noisier than `s`: at t = s the target is infinite.")
        alpha_s, sigma_s = self.alpha(s), self.sigma(s)
        beta = (self.sigma(t) * fresh).clamp(min=torch.finfo(fresh.dtype).tiny)
        data = _as(1 / alpha_s, x_s) * x_s - _as(self.alpha(t) * sigma_s**2 / (alpha_s**2 * beta), x_s) * noise
        return self.output(data, _as(1 / fresh, x_s) * noise)

    def regression_weight(self, s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """
        (beta / sigma_t)^2, in [0, 1]: with it the squared error of [`~Prediction.regression_target`] has bounded
        variance. It is 1 where x_s is clean: the loss is then that of ordinary training. The intervals of the steps
        are disjoint, so a factor of each changes what is learned first, and not what is learned.
        """
        return self._fresh(s, t) ** 2

    def _fresh(self, s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """beta / sigma_t, free of 0 / 0 at the clean end."""
        old = self.alpha(t) * self.sigma(s)
        total = (self.alpha(s) * self.sigma(t)).clamp(min=torch.finfo(old.dtype).tiny)
        square = 1 - (old / total) ** 2
        # A thousandth of rounding is let through: t = s is a legal, if trivial, kernel.
        if not bool((square > -1e-3).all()):
            raise ValueError(f"`t` must not be cleaner than `s`, but got t = {t.tolist()} for s = {s.tolist()}.")
        return square.clamp(min=0).sqrt()

    def snr(self, t: torch.Tensor) -> torch.Tensor:
        """alpha^2 / sigma^2: 0 at pure noise, bounded by 10^4 at clean data."""
        square = self.alpha(t) ** 2
        return square / torch.maximum(self.sigma(t) ** 2, square / _MAX_SNR)

    def weight(self, name: str, t: torch.Tensor) -> torch.Tensor:
        """
        Loss weights in sample space, shape `(B,)`: `"constant"` is 1, `"snr"` the signal-to-noise ratio, `"min_snr"`
        the smaller of that and 5 ([Min-SNR](https://arxiv.org/abs/2303.09556), whose weights for epsilon and velocity
        outputs are this one divided by the change of units).

        Raises:
            ValueError: for another name.
        """
        if name not in WEIGHTS:
            raise ValueError(f"`weight` must be one of {WEIGHTS}, but got {name!r}.")
        if name == "constant":
            return torch.ones_like(self.alpha(t))
        snr = self.snr(t)
        return snr if name == "snr" else snr.clamp(max=_MIN_SNR_GAMMA)


class VelocityPrediction(Prediction):
    """
    Velocity models on the linear path, alpha + sigma = 1. The output is d x_t / d t.

    Args:
        data_time (`int`, defaults to 1): 1 for F5-TTS, whose velocity is data - noise; 0 for the flow-matching models
            of diffusers (Flux, SD3), whose t is the noise level sigma and whose velocity is noise - data. Networks
            that want 1000 sigma are to be wrapped.
        grid (`str`, defaults to `"uniform"`): spacing of the steps, as of
            [`~dtm_hf.scheduling.time_grids.time_grid`].
        shift (`float`, defaults to 1.0): sigma -> shift sigma / (1 + (shift - 1) sigma) on the grid, as
            `FlowMatchEulerDiscreteScheduler` shifts it.
        sway_coefficient (`float`, defaults to -1.0): c of a `"sway"` grid.
    """

    def __init__(self, data_time: int = 1, grid: str = "uniform", shift: float = 1.0, sway_coefficient: float = -1.0):
        if data_time not in (0, 1):
            raise ValueError(f"`data_time` must be 1 (F5-TTS) or 0 (diffusers), but got {data_time}.")
        if not shift > 0:
            raise ValueError(f"`shift` must be greater than 0, but got {shift}.")
        self.data_time, self.noise_time = float(data_time), float(1 - data_time)
        self._sign = 2 * data_time - 1
        self._grid, self._shift, self._sway_coefficient = grid, shift, sway_coefficient
        self.grid(1)  # refuses an unknown name

    def alpha(self, t: torch.Tensor) -> torch.Tensor:
        return t if self.data_time else 1 - t

    def sigma(self, t: torch.Tensor) -> torch.Tensor:
        return 1 - t if self.data_time else t

    def estimates(self, output: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        velocity = self._sign * output
        return x_t + _as(self.sigma(t), x_t) * velocity, x_t - _as(self.alpha(t), x_t) * velocity

    def output(self, data: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return self._sign * (data - noise)

    def regression_weight(self, s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """
        (alpha_s beta / sigma_t)^2. What remains of a velocity's target has, for data of variance 1, between 1 and
        1 / alpha_s^2 times the variance it has at clean x_s: on F5-TTS's grid of four steps, up to 170 times as much
        in the first as in the last. Without this factor the first would be all that is learned.
        """
        return (self.alpha(s) * self._fresh(s, t)) ** 2

    def grid(self, num_steps: int) -> torch.Tensor:
        sigma = 1 - time_grid(self._grid, num_steps, self._sway_coefficient)
        sigma = self._shift * sigma / (1 + (self._shift - 1) * sigma)
        return 1 - sigma if self.data_time else sigma

    def between(self, noisier: torch.Tensor, cleaner: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        return noisier + share * (cleaner - noisier)


class EpsilonPrediction(Prediction):
    """
    Noise-predicting models on a discrete schedule, alpha^2 + sigma^2 = 1, with diffusers' own `alphas_cumprod`. t is
    a whole number from `num_train_timesteps - 1` (noise) to -1 (clean data, the end of the last step).

    Args:
        num_train_timesteps (`int`, defaults to 1000): T.
        beta_start (`float`, defaults to 0.0001): first beta.
        beta_end (`float`, defaults to 0.02): last beta.
        beta_schedule (`str`, defaults to `"linear"`): `"linear"` or `"scaled_linear"`.
    """

    data_time = -1.0

    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
    ):
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        if beta_schedule not in BETA_SCHEDULES:
            raise ValueError(f"`beta_schedule` must be one of {BETA_SCHEDULES}, but got {beta_schedule!r}.")
        scheduler = DDPMScheduler(num_train_timesteps, beta_start, beta_end, beta_schedule)
        self.noise_time = float(num_train_timesteps - 1)
        # Index -1 is the last entry: clean data.
        self._alpha_squares = torch.cat([scheduler.alphas_cumprod, torch.ones(1)])

    def _alpha_square(self, t: torch.Tensor) -> torch.Tensor:
        if self._alpha_squares.device != t.device:
            self._alpha_squares = self._alpha_squares.to(t.device)
        square = self._alpha_squares[t.long()]
        return square.to(t.dtype) if t.is_floating_point() else square

    def alpha(self, t: torch.Tensor) -> torch.Tensor:
        return self._alpha_square(t).sqrt()

    def sigma(self, t: torch.Tensor) -> torch.Tensor:
        return (1 - self._alpha_square(t)).sqrt()

    def estimates(self, output: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (x_t - _as(self.sigma(t), x_t) * output) / _as(self.alpha(t), x_t), output

    def output(self, data: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return noise

    def grid(self, num_steps: int) -> torch.Tensor:
        """diffusers' `timestep_spacing="trailing"`, the one that begins at pure noise."""
        total = self.noise_time + 1
        return (total - total / num_steps * torch.arange(num_steps + 1)).round() - 1

    def between(self, noisier: torch.Tensor, cleaner: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        return noisier - (share * (noisier - cleaner)).floor()


def prediction_for(scheduler: Any, shift: float | None = None) -> Prediction:
    """
    The prediction of the models that a scheduler samples.

    Args:
        scheduler: a diffusers scheduler with betas (`DDPMScheduler`, `DDIMScheduler`, `EulerDiscreteScheduler`, ...),
            `FlowMatchEulerDiscreteScheduler` or [`DTMScheduler`].
        shift (`float`, *optional*): fixed shift of a flow-matching grid in place of the scheduler's. A student has
            one grid, so shifting by resolution (`use_dynamic_shifting`) does not carry over to it.

    Raises:
        ValueError: for another scheduler, another prediction type than epsilon, or a schedule that is not supported.
    """
    name, config = type(scheduler).__name__, getattr(scheduler, "config", {})
    if name == "DTMScheduler":
        shift = 1.0 if shift is None else shift
        return VelocityPrediction(1, config["time_grid"], shift, config["sway_coefficient"])
    if name == "FlowMatchEulerDiscreteScheduler":
        for option in ("invert_sigmas", "shift_terminal", "use_karras_sigmas"):
            if config.get(option):
                raise ValueError(f"`scheduler` must have no `{option}`, but got {config[option]!r}.")
        return VelocityPrediction(0, "uniform", config["shift"] if shift is None else shift)
    if "beta_schedule" not in config or "prediction_type" not in config:
        raise ValueError(
            "`scheduler` must be a diffusers scheduler with betas, `FlowMatchEulerDiscreteScheduler` or "
            f"`DTMScheduler`, but got {name}."
        )
    if config["prediction_type"] != "epsilon":
        raise ValueError(
            f"`prediction_type` of {name} must be 'epsilon', but got {config['prediction_type']!r}; velocities are "
            "supported on flows (`FlowMatchEulerDiscreteScheduler`, `DTMScheduler`)."
        )
    if config.get("trained_betas") is not None:
        raise ValueError(f"`trained_betas` of {name} must be none, but got a list; use `beta_schedule`.")
    if config.get("rescale_betas_zero_snr"):
        raise ValueError(
            f"`rescale_betas_zero_snr` of {name} must be off, but got True: at zero signal a predicted noise says "
            "nothing of the data."
        )
    return EpsilonPrediction(
        config["num_train_timesteps"], config["beta_start"], config["beta_end"], config["beta_schedule"]
    )


def _as(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`(B,)` -> `(B, 1, ...)`, in the dtype of a state."""
    return values.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))
