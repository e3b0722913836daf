"""
Trajectory Distribution Matching: a student of 1-4 steps from a frozen teacher
([Learning Few-Step Diffusion Models by Trajectory Distribution Matching](https://arxiv.org/abs/2503.06674)).

Three networks, each a plain callable that returns the output its [`Prediction`] describes: the teacher
`(x, t, **conditions)`, and the student and the estimator `(x, t, num_steps=..., **conditions)`, for one student serves
several numbers of steps and the states it passes through differ between them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dtm_hf.backbone.low_rank import MAX_STEPS
from dtm_hf.training.objectives.losses import LossOutput, masked_mean
from dtm_hf.training.objectives.prediction import WEIGHTS, Prediction

Network = Callable[..., torch.Tensor]

# In units of the data, whose scale is about 1: bounds the gradient of a student that is right already.
_MIN_ERROR = 1e-3


@dataclass
class Rollout:
    """
    The student's own trajectories, without a gradient.

    Args:
        states (`torch.Tensor` of shape `(K + 1, B, ...)`): from noise to samples, K the most steps of a row; a row
            with fewer steps stays at its sample.
        times (`torch.Tensor` of shape `(B, K + 1)`): of the states.
        num_steps (`torch.LongTensor` of shape `(B,)`): steps of each row.
        taught (`torch.BoolTensor` of shape `(B, K)`): the steps that losses are of, one of each row at least.
    """

    states: torch.Tensor
    times: torch.Tensor
    num_steps: torch.Tensor
    taught: torch.Tensor

    @property
    def samples(self) -> torch.Tensor:
        """What the student makes of the noise, `(B, ...)`."""
        return self.states[-1]

    def at(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """State `(B, ...)` and time `(B,)` of each row before its step `index`, `(B,)`."""
        rows = torch.arange(len(index), device=index.device)
        return self.states[index, rows], self.times[rows, index]

    def draw_steps(self, generator: torch.Generator | None = None) -> torch.Tensor:
        """One of the steps of each row that are taught, uniformly: `(B,)`."""
        u = torch.rand(len(self.num_steps), generator=generator, device=self.num_steps.device)
        places = self.taught.cumsum(dim=1)
        among = places[:, -1]
        wanted = (u * among).long().minimum(among - 1)
        return (places <= wanted[:, None]).sum(dim=1)


@dataclass
class TDMLossOutput(LossOutput):
    """
    A [`LossOutput`] whose `t` is the time tau of the comparison and `s` the time at the end of the step.

    Args:
        step (`torch.LongTensor` of shape `(B,)`): the step of each row: the interval that tau lies in.
        num_steps (`torch.LongTensor` of shape `(B,)`): of how many.
        row_gaps (`torch.Tensor` of shape `(B,)`, *optional*): of the student's loss, the mean absolute difference of
            the real and the fake estimate, over that of the real estimate and the student's. The loss need not fall
            while a student gets better, since the estimator moves with it; this falls where the student is right.
    """

    step: torch.Tensor | None = None
    num_steps: torch.Tensor | None = None
    row_gaps: torch.Tensor | None = None

    def by_time(self, num_bins: int) -> dict[str, torch.Tensor]:
        """By step: the intervals of a student's steps have times in units of its network, and widths of their own."""
        weights, found = self.row_frames.float(), {}
        values = {"loss": self.row_losses, "score_gap": self.row_gaps}
        for count in range(1, MAX_STEPS + 1):
            for step in range(count):
                inside = weights * ((self.num_steps == count) & (self.step == step))
                for name, rows in values.items():
                    if rows is not None:
                        sums = torch.stack([(rows.float() * inside).sum(), inside.sum()])
                        found[f"{name}_step_{step + 1}_of_{count}"] = sums.reshape(2, 1)
        return found


class TDM:
    r"""
    The losses of the student and of the estimator, and the student's sampling.

    A student with K steps goes from t_k to t_{k+1} = s by one deterministic step each. The states it arrives at are to
    be distributed as the teacher's are. So its x_s are diffused to a tau inside (t_k, s), where teacher and estimator
    estimate the data, and the student's estimate moves by the difference: the gradient of KL(q_tau || p_tau) up to a
    positive factor. The intervals of the steps are disjoint, hence tau tells the step, and one estimator does for all.

    Both losses need gradients of one network alone: the student's has none to the estimator, nor the reverse.

    Args:
        prediction ([`Prediction`]): what the networks predict, and the student's grid.
        step_counts (`int` or a sequence of `int`, defaults to 4): numbers of steps that the student serves, 1-4.
        weight (`str`, defaults to `"constant"`): weight of tau, as of [`~Prediction.weight`].
        huber_scale (`float`, defaults to 0.1): c of sqrt(d^2 + c^2) - c, where d is the root mean square of a row's
            normalised difference. Far below c it is the squared error; far above, every row pulls alike.
        margin (`float`, defaults to 0.02): share of an interval, at its clean end, that tau keeps away from. There
            the estimator has next to nothing to learn from.

    Raises:
        ValueError: for a number of steps outside 1-4, an unknown `weight`, a scale or a margin that cannot be.
    """

    def __init__(
        self,
        prediction: Prediction,
        step_counts: int | Sequence[int] = MAX_STEPS,
        *,
        weight: str = "constant",
        huber_scale: float = 0.1,
        margin: float = 0.02,
    ):
        counts = (step_counts,) if isinstance(step_counts, int) else tuple(step_counts)
        if not counts or any(not 1 <= count <= MAX_STEPS for count in counts):
            raise ValueError(f"`step_counts` must be numbers of steps from 1 to {MAX_STEPS}, but got {step_counts}.")
        if weight not in WEIGHTS:
            raise ValueError(f"`weight` must be one of {WEIGHTS}, but got {weight!r}.")
        if not huber_scale > 0:
            raise ValueError(f"`huber_scale` must be greater than 0, but got {huber_scale}.")
        if not 0 <= margin < 1:
            raise ValueError(f"`margin` must lie in [0, 1), but got {margin}.")
        self.prediction, self.step_counts = prediction, counts
        self.weight, self.huber_scale, self.margin = weight, huber_scale, margin

    # The student's trajectory

    def draw_step_counts(
        self, size: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """One of `step_counts` for each row, uniformly: `(size,)`."""
        index = torch.randint(len(self.step_counts), (size,), generator=generator, device=device)
        return torch.tensor(self.step_counts, device=device)[index]

    @torch.no_grad()
    def rollout(
        self,
        student: Network,
        noise: torch.Tensor,
        num_steps: int | torch.Tensor | None = None,
        conditions: Mapping[str, Any] | None = None,
        generator: torch.Generator | None = None,
    ) -> Rollout:
        """
        Let the student walk its grid from `noise`, without a gradient; `rollout(...).samples` is its sampling.

        Args:
            student: the network.
            noise (`torch.Tensor` of shape `(B, ...)`): where it starts.
            num_steps (`int` or `torch.LongTensor` of shape `(B,)`, *optional*): steps of each row; drawn from
                `step_counts` by default.
            conditions (`dict`, *optional*): keyword arguments of the networks.
            generator (`torch.Generator`, *optional*): of `num_steps`.

        Raises:
            ValueError: for a number of steps outside 1-4, or an output of another shape than `noise`.
        """
        if num_steps is None:
            num_steps = self.draw_step_counts(len(noise), noise.device, generator)
        if isinstance(num_steps, int):
            num_steps = torch.full((len(noise),), num_steps, device=noise.device)
        fewest, most = (int(bound) for bound in num_steps.aminmax())
        if not 1 <= fewest <= most <= MAX_STEPS:
            raise ValueError(f"`num_steps` must lie in [1, {MAX_STEPS}], but got {fewest} to {most}.")
        # Half precision is the networks' affair: a state accumulates, and differences of estimates are small.
        x = noise.to(torch.promote_types(noise.dtype, torch.float32))
        times = self._times(most).to(x.device)[num_steps - 1]
        states = [x]
        for k in range(most):
            _, stepped = self._step(student, x, times[:, k], times[:, k + 1], num_steps, conditions)
            x = torch.where(_over(num_steps > k, x), stepped, x)
            states.append(x)
        _forget_casts()
        taught = torch.arange(most, device=x.device) < num_steps[:, None]
        return Rollout(torch.stack(states), times, num_steps, taught)

    def _times(self, most: int) -> torch.Tensor:
        """Grids of 1 to `most` steps, `(most, most + 1)`, each extended by the time of clean data."""
        times = torch.full((most, most + 1), self.prediction.data_time)
        for count in range(1, most + 1):
            times[count - 1, : count + 1] = self.prediction.grid(count)
        return times

    def _step(self, student, x, t, s, num_steps, conditions) -> tuple[torch.Tensor, torch.Tensor]:
        """The student's data estimate at x_t, and the state x_s its step leads to."""
        output = _call("student", student, x, t, conditions, num_steps)
        return self.prediction.estimates(output, x, t)[0], self.prediction.step(output, x, t, s)

    # Losses

    def student_loss(
        self,
        student: Network,
        estimator: Network,
        teacher: Network,
        rollout: Rollout,
        conditions: Mapping[str, Any] | None = None,
        mask: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> TDMLossOutput:
        """
        Take one step of each row anew, with a gradient, and compare where it leads with where the teacher would.

        With x_hat the student's data estimate, and real and fake those of teacher and estimator at x_tau, a row's loss
        is the pseudo-Huber distance of x_hat and its own detached copy moved by (real - fake) / mean |x_hat - real|.

        Args:
            student: gets the gradient.
            estimator: the score of the student's states; without guidance.
            teacher: frozen; [`guided`] if it is to be.
            rollout ([`Rollout`]): of the student as it is.
            conditions (`dict`, *optional*): keyword arguments of the networks.
            mask (`torch.BoolTensor` of shape `(B, N)`, *optional*): positions along the first dimensions of a state
                that enter the loss; all by default. A row without any has no loss.
            generator (`torch.Generator`, *optional*): of the step, of tau and of the noise.

        Raises:
            ValueError: for an output of another shape than the state, or a `mask` that does not fit.
        """
        mask = _fitting_mask(mask, rollout.samples)
        step = rollout.draw_steps(generator)
        (x_t, t), s = rollout.at(step), rollout.at(step + 1)[1]
        x_hat, x_s = self._step(student, x_t, t, s, rollout.num_steps, conditions)
        with torch.no_grad():
            tau, eps = self._draw_noisier(t, s, x_s, generator)
            x_tau = self.prediction.diffuse(x_s, s, tau, eps)
            real = self._data(_call("teacher", teacher, x_tau, tau, conditions), x_tau, tau)
            fake = self._data(_call("estimator", estimator, x_tau, tau, conditions, rollout.num_steps), x_tau, tau)
            error = masked_mean((x_hat - real).abs(), mask, by_row=True).clamp(min=_MIN_ERROR)
            move = (real - fake) / _over(error, real)
            gaps, target = masked_mean(move.abs(), mask, by_row=True), x_hat + move
        _forget_casts()
        distance = masked_mean((x_hat - target) ** 2, mask, by_row=True)
        rows = (distance + self.huber_scale**2).sqrt() - self.huber_scale
        rows = rows * self.prediction.weight(self.weight, tau).to(rows.dtype)
        return self._output(rows, mask, step, rollout.num_steps, tau, s, gaps)

    def estimator_loss(
        self,
        estimator: Network,
        rollout: Rollout,
        conditions: Mapping[str, Any] | None = None,
        mask: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> TDMLossOutput:
        """
        Denoising of the student's own states: what makes the estimator their score.

        The squared error of [`~Prediction.regression_target`] in units of the output, weighted with
        [`~Prediction.regression_weight`]. The arguments are those of [`~TDM.student_loss`]; `estimator` gets the
        gradient, and nothing else can: the rollout has none.
        """
        mask = _fitting_mask(mask, rollout.samples)
        step = rollout.draw_steps(generator)
        (_, t), (x_s, s) = rollout.at(step), rollout.at(step + 1)
        tau, eps = self._draw_noisier(t, s, x_s, generator)
        x_tau = self.prediction.diffuse(x_s, s, tau, eps)
        target = self.prediction.regression_target(x_s, s, tau, eps)
        output = _call("estimator", estimator, x_tau, tau, conditions, rollout.num_steps)
        rows = masked_mean((output - target) ** 2, mask, by_row=True)
        rows = rows * self.prediction.regression_weight(s, tau).to(rows.dtype)
        return self._output(rows, mask, step, rollout.num_steps, tau, s)

    def _draw_noisier(self, t, s, x_s, generator) -> tuple[torch.Tensor, torch.Tensor]:
        """A time inside the interval of a step, and the noise that leads there."""
        share = (1 - self.margin) * torch.rand(len(t), generator=generator, device=t.device)
        eps = torch.randn(x_s.shape, generator=generator, device=x_s.device).to(x_s.dtype)
        return self.prediction.between(t, s, share), eps

    def _data(self, output: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.prediction.estimates(output, x_t, t)[0]

    @staticmethod
    def _output(rows, mask, step, num_steps, tau, s, gaps=None) -> TDMLossOutput:
        frames = mask.flatten(1).sum(dim=1)
        loss = (rows * frames).sum() / frames.sum().clamp(min=1)
        figures = {} if gaps is None else {"score_gap": (gaps * frames).sum() / frames.sum().clamp(min=1)}
        return TDMLossOutput(loss, figures, rows.detach(), frames, tau, s, step, num_steps, gaps)


def guided(teacher: Network, guidance_scale: float, null_conditions: Mapping[str, Any]) -> Network:
    """
    A teacher with classifier-free guidance: null + `guidance_scale` (cond - null), in two calls.

    Args:
        teacher: the network.
        guidance_scale (`float`): w + 1 in the notation of F5-TTS; 1 is no guidance.
        null_conditions (`dict`): what stands in the place of the conditions of the same names in the null branch.
    """

    def network(x: torch.Tensor, t: torch.Tensor, **conditions) -> torch.Tensor:
        cond = teacher(x, t, **conditions)
        null = teacher(x, t, **conditions | null_conditions)
        return null + guidance_scale * (cond - null)

    return network


def _call(name: str, network: Network, x, t, conditions, num_steps=None) -> torch.Tensor:
    """A network's output, in the dtype of the state."""
    count = {} if num_steps is None else {"num_steps": num_steps}
    output = network(x, t, **count, **(conditions or {}))
    if output.shape != x.shape:
        raise ValueError(
            f"`{name}` must return the shape of its input, {tuple(x.shape)}, but got {tuple(output.shape)}."
        )
    return output.to(x.dtype)


def _forget_casts() -> None:
    """
    Autocast keeps the weights it has cast. Before pytorch#165068 (end of 2025) those cast under `no_grad` had no
    graph, and a later call with a gradient took them and left the parameters without one.
    """
    torch.clear_autocast_cache()


def _over(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`(B,)` -> `(B, 1, ...)`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _fitting_mask(mask: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    """A mask with as many dimensions as the state."""
    if mask is None:
        return torch.ones(len(x), *[1] * (x.ndim - 1), dtype=torch.bool, device=x.device)
    if mask.dtype != torch.bool or mask.shape != x.shape[: mask.ndim]:
        raise ValueError(
            f"`mask` must be of bool and have the first dimensions of a state, {tuple(x.shape)}, but got "
            f"{mask.dtype} of {tuple(mask.shape)}."
        )
    return mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim))
