"""Difference Transition Matching on a frozen backbone: Algorithm 3 of [Transition Matching](https://arxiv.org/abs/2506.23589)."""

import torch

from dtm_hf.precision import computing
from dtm_hf.training.objectives.arguments import DTMArguments
from dtm_hf.training.objectives.conditioning import MelBatch, draw_conditions, draw_guided_conditions, draw_times
from dtm_hf.training.objectives.losses import LossOutput, masked_mean
from dtm_hf.training.objectives.walk import probe_guidance


class DTMObjective:
    """
    Trains a head on a frozen backbone: ||g(h, Y_s, s, t, v) - (Y - Y_0)||^2 over the frames that enter the loss.

    With `baked_guidance_scale` w + 1 the target displacement is Y + w (v_c - v_u), whose mean given X_t is F5's guided
    velocity; conditions are then never dropped, since such a head never runs on the null branch. With a
    `baked_guidance_range` w is drawn anew for each draw of (s, Y_0), and the head is told. From
    `baked_guidance_end` on, w is 0.

    Of the draws, the share `mean_draw_prob` is made at s = 0, where nothing of Y is seen yet: there the head's best
    answer is E[Y | X_t], which the backbone has said already, v + w (v_c - v_u). It is the target in the place of Y,
    and has no spread that must be averaged away.

    Args:
        arguments ([`DTMArguments`]): how times and conditions are drawn.
        backbone ([`F5Backbone`]): frozen.
        grid (`torch.Tensor` of shape `(T,)`): global times of the scheduler, for `t_sampling: grid`.
    """

    def __init__(self, arguments: DTMArguments, backbone: torch.nn.Module, grid: torch.Tensor):
        self.arguments = arguments
        self.backbone = backbone
        self.grid = grid[arguments.t_min :]
        self.guided = arguments.baked_guidance_scale is not None

    @torch.no_grad()
    def _backbone_pass(self, x_t, t, conditions, batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features h and velocity v of the head's branch, and v_c - v_u, along which guidance shifts the target."""
        branch = "both" if self.guided else "cond"
        with computing(self.backbone):
            output = self.backbone(
                x_t,
                t,
                conditions.cond,
                batch.text_ids,
                batch.attention_mask,
                branch,
                drop_text=conditions.drop_text,
                durations=batch.durations,
            )
        h_t, v = output.features, output.velocity.float()
        if not self.guided:
            return h_t, v, torch.zeros_like(v)
        (h_t, _), (v, v_null) = h_t.chunk(2), v.chunk(2)
        return h_t, v, v - v_null

    def _draw_scales(self, size: int, device: torch.device, generator: torch.Generator | None) -> torch.Tensor | None:
        """Guidance scale w + 1 of each draw `(size,)`; `None` without guidance."""
        if not self.guided:
            return None
        if self.arguments.baked_guidance_range is None:
            return torch.full((size,), self.arguments.baked_guidance_scale, device=device)
        low, high = self.arguments.baked_guidance_range
        return low + (high - low) * torch.rand(size, generator=generator, device=device)

    def loss(self, head: torch.nn.Module, batch: MelBatch, generator: torch.Generator | None = None) -> LossOutput:
        """Loss and figures of a batch. The variable names are those of Algorithm 3."""
        arguments, x_1 = self.arguments, batch.mel
        k, device = arguments.head_batch_multiplier, x_1.device
        conditions = (draw_guided_conditions if self.guided else draw_conditions)(batch, arguments, generator)
        t = draw_times(
            arguments.t_sampling,
            len(x_1),
            device,
            grid=self.grid,
            logit_mean=arguments.t_logit_mean,
            generator=generator,
        )
        x_0 = torch.randn(x_1.shape, generator=generator, device=device)
        x_t = (1 - t[:, None, None]) * x_0 + t[:, None, None] * x_1
        h_t, v, direction = self._backbone_pass(x_t, t, conditions, batch)

        # k draws of (s, Y_0) share one backbone pass: the pass is the cost.
        y, mean = (x_1 - x_0).repeat(k, 1, 1), v.repeat(k, 1, 1)
        scales, shift = self._draw_scales(len(y), device, generator), torch.zeros_like(y)
        if scales is not None:
            w = (scales - 1) * (t < arguments.baked_guidance_end).repeat(k)
            shift = w[:, None, None] * direction.repeat(k, 1, 1)
        y = y + shift
        s = draw_times(arguments.s_sampling, k * len(x_1), device, generator=generator)
        if arguments.mean_draw_prob > 0:
            at_mean = torch.rand(len(s), generator=generator, device=device) < arguments.mean_draw_prob
            s = s.masked_fill(at_mean, 0.0)
        y_0 = torch.randn(y.shape, generator=generator, device=device)
        y_s = (1 - s[:, None, None]) * y_0 + s[:, None, None] * y
        target = y
        if arguments.mean_draw_prob > 0:
            target = torch.where(at_mean[:, None, None], mean + shift, y)
        output = head(
            h_t,
            y_s,
            s,
            timestep=t.repeat(k),
            velocity=mean,
            attention_mask=batch.attention_mask.repeat(k, 1),
            guidance_scale=scales,
        )
        # The velocity error is the displacement error over 1 - s, which is bounded here: near s=1 it is all weight.
        remainder = (1 - s).clamp(min=arguments.min_loss_remainder)[:, None, None]
        error = ((output.displacement - target) / remainder) ** 2
        frames = conditions.loss_frames.repeat(k, 1)
        figures = {"mean_displacement_error": self._relative_error(output.displacement, y, mean, frames)}
        rows = masked_mean(error.detach(), frames, by_row=True)
        return LossOutput(masked_mean(error, frames), figures, rows, frames.sum(dim=1), t.repeat(k), s)

    @staticmethod
    @torch.no_grad()
    def _relative_error(displacement, y, mean, frames) -> torch.Tensor:
        """Error of y_hat over the error of the backbone's mean v: below 1 where the head knows more than the mean."""
        return masked_mean((displacement - y) ** 2, frames) / masked_mean((mean - y) ** 2, frames)

    def probe(self, head, batch, generator=None) -> dict[str, torch.Tensor]:
        """R^2 of guidance on the own states of a head that has it baked in; one head call a step."""
        if not self.guided:
            return {}

        def answer(output, v, x, t, scale, mask) -> torch.Tensor:
            y_0 = torch.randn(x.shape, generator=generator, device=x.device)
            features, told = output.features[: len(x)], scale if self.arguments.baked_guidance_range else None
            return head(
                features, y_0, 0.0, timestep=t, velocity=v, attention_mask=mask, guidance_scale=told
            ).displacement

        return probe_guidance(self.backbone, answer, batch, self.arguments.baked_guidance_scale, generator)
