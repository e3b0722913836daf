"""A head that says what guidance adds, trained on the states that it leads to itself."""

import torch

from dtm_hf.backbone.closed_form import guided_at_zero
from dtm_hf.backbone.contract import F5BackboneOutput
from dtm_hf.precision import computing
from dtm_hf.scheduling.time_grids import time_grid
from dtm_hf.training.objectives.arguments import DTMArguments
from dtm_hf.training.objectives.conditioning import MelBatch, draw_guided_conditions
from dtm_hf.training.objectives.losses import LossOutput, masked_mean
from dtm_hf.training.objectives.walk import probe_guidance

# So much of a run follows guidance alone: a head that knows nothing yet leads nowhere.
_SHARE_OF_TEACHER = 0.1


class PolicyObjective:
    """
    Trains a head of `prediction="guidance"` on a frozen backbone, walk by walk: from noise, with Euler's steps, along
    the head's own answers v_k + D_k in a share of the rows, and along guidance itself in the others
    (`policy_guided_share`; in the first tenth of a run in all). The loss is the error that each answer makes of its
    step, sum_k (t_{k+1} - t_k)^2 ||D_k - w d(x_k)||^2 with d = v_c - v_u, over the sum of the squared lengths. States
    carry no gradient.

    States that noise and data were mixed to are others than those that a guided sampler reaches: on them a head can
    learn what fails on its own. Steps from `baked_guidance_end` on are not walked; with a known mean t = 0 is walked
    in its closed form.

    Args:
        arguments ([`DTMArguments`]): how conditions, scales and walks are drawn.
        backbone ([`F5Backbone`]): frozen.
        head_config ([`DTMHeadConfig`]): of the head.
        grid_name (`str`): global grid.
    """

    def __init__(self, arguments: DTMArguments, backbone: torch.nn.Module, head_config, grid_name: str = "sway"):
        self.arguments, self.backbone, self.grid_name = arguments, backbone, grid_name
        self.residual_layers, self.end = head_config.residual_layers, head_config.guidance_end
        self.mean = head_config.mean_mel
        self._only_teacher = False

    def begin(self, progress: float) -> None:
        """Be told how much of a run is done, from 0 to 1."""
        self._only_teacher = progress < _SHARE_OF_TEACHER

    def loss(self, head: torch.nn.Module, batch: MelBatch, generator: torch.Generator | None = None) -> LossOutput:
        """Loss and figures of a batch."""
        arguments, x_1, mask = self.arguments, batch.mel, batch.attention_mask
        device, rows = x_1.device, len(x_1)
        conditions = draw_guided_conditions(batch, arguments, generator)
        low, high = arguments.baked_guidance_range
        scales = low + (high - low) * torch.rand(rows, generator=generator, device=device)
        by_teacher = torch.rand(rows, generator=generator, device=device) < arguments.policy_guided_share
        by_teacher = (by_teacher | self._only_teacher)[:, None, None]
        counts = arguments.policy_step_counts
        count = counts[int(torch.randint(len(counts), (1,), generator=generator, device=device))]
        x = torch.randn(x_1.shape, generator=generator, device=device)
        text_embeds = self._encode(batch)
        scale = scales[:, None, None]
        error, guidance, weight = torch.zeros_like(x), torch.zeros_like(x), 0.0
        grid = time_grid(self.grid_name, count).tolist()
        for t, after in zip(grid, grid[1:], strict=False):
            if t >= self.end:
                break
            length, known = after - t, t == 0 and self.mean is not None
            output = self._pass(x, t, conditions.cond, text_embeds, mask, "cond" if known else "both")
            v = output.velocity.float()[:rows]
            if known:
                x = x + length * guided_at_zero(v, x, scale, self.mean, mask)
                continue
            target = v + (scale - 1) * (v - output.velocity.float()[rows:])
            y_hat = head_answer(head, output, v, x, t, scales, mask)
            error = error + (length * (y_hat - target)) ** 2
            guidance = guidance + (length * (target - v)) ** 2
            weight += length**2
            x = x + length * torch.where(by_teacher, target, y_hat.detach())
        frames = conditions.loss_frames
        error = error / weight
        explained = 1 - masked_mean(error.detach(), frames) / masked_mean(guidance / weight, frames).clamp(min=1e-12)
        loss_by_row = masked_mean(error.detach(), frames, by_row=True)
        return LossOutput(
            masked_mean(error, frames), {"explained": explained}, loss_by_row, frames.sum(dim=1), None, None
        )

    @torch.no_grad()
    def _encode(self, batch: MelBatch):
        with computing(self.backbone):
            return self.backbone.encode_text(
                batch.text_ids, batch.attention_mask, batch.mel.shape[1], True, batch.durations
            )

    @torch.no_grad()
    def _pass(self, x, t, cond, text_embeds, mask, branch) -> F5BackboneOutput:
        with computing(self.backbone):
            return self.backbone(
                x,
                t,
                cond,
                None,
                mask,
                branch,
                text_embeds=text_embeds,
                residual_layers=self.residual_layers,
            )

    def probe(self, head, batch, generator=None) -> dict[str, torch.Tensor]:
        """R^2 of guidance on the head's own states: see [`probe_head`]."""
        return probe_head(self.backbone, head, batch, self.arguments.baked_guidance_scale, generator)


def head_answer(head: torch.nn.Module, output: F5BackboneOutput, v, x, t, scale, mask) -> torch.Tensor:
    """y_hat `(B, N, M)` of a head of `prediction="guidance"` at X_t. What stands for Y_s and s is not read."""
    call = {"timestep": t, "velocity": v, "attention_mask": mask, "guidance_scale": scale}
    return head(output.joined(x), x, 0.0, **call).displacement


def probe_head(
    backbone: torch.nn.Module,
    head: torch.nn.Module,
    batch: MelBatch,
    scale: float,
    generator: torch.Generator | None = None,
) -> dict[str, torch.Tensor]:
    """
    R^2 of guidance on the states that a head of `prediction="guidance"` reaches itself: see
    [`~dtm_hf.training.objectives.walk.probe_guidance`].
    """
    config = head.config

    def answer(output, v, x, t, scale, mask) -> torch.Tensor:
        if t >= config.guidance_end:
            return v
        if t == 0 and config.mean_mel is not None:
            return guided_at_zero(v, x, scale, config.mean_mel, mask)
        return head_answer(head, output, v, x, t, scale, mask)

    return probe_guidance(backbone, answer, batch, scale, generator, config.residual_layers)
