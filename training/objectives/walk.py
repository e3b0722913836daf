"""How much of guidance a head explains on the states that a sampler with it reaches itself."""

from collections.abc import Callable, Sequence

import torch

from dtm_hf.backbone.contract import Backbone, F5BackboneOutput
from dtm_hf.precision import computing
from dtm_hf.scheduling.time_grids import time_grid
from dtm_hf.training.objectives.conditioning import MelBatch
from dtm_hf.training.objectives.losses import masked_mean

# Utterances of a probe: the figure needs few, and each takes eight passes.
_PROBED, _PROBED_STEPS = 8, 4

# y_hat `(B, N, M)` of a head, given what the backbone said at X_t, v of the conditional branch, X_t and t.
Answer = Callable[[F5BackboneOutput, torch.Tensor, torch.Tensor, float], torch.Tensor]


@torch.no_grad()
def explained_guidance(
    backbone: Backbone,
    answer: Answer,
    x_0: torch.Tensor,
    cond: torch.Tensor,
    text_embeds,
    attention_mask: torch.Tensor | None,
    frames: torch.Tensor,
    grid: Sequence[float],
    scale: float,
    residual_layers: int = 0,
) -> list[dict[str, torch.Tensor]]:
    """
    At each step of Euler's walk along the answers: R^2 = 1 - ||y_hat - v - w d||^2 / ||w d||^2 with d = v_c - v_u.

    1 is guidance itself, 0 none of it, and below 0 is worse than none. Both branches of the backbone run.

    Args:
        backbone ([`~dtm_hf.backbone.contract.Backbone`]): that the head is made for.
        answer (`Callable`): y_hat of the head, `answer(output, v, x_t, t)`.
        x_0 (`torch.Tensor` of shape `(B, N, M)`): noise.
        cond (`torch.Tensor` of shape `(B, N, M)`), text_embeds, attention_mask: as the backbone takes them.
        frames (`torch.BoolTensor` of shape `(B, N)`): that are counted.
        grid (sequence of `float`): times of the steps, and 1.
        scale (`float`): w + 1.
        residual_layers (`int`, defaults to 0): as the backbone takes it.

    Returns:
        `list[dict[str, torch.Tensor]]`: of each step `error` and `guidance`, the two means of squares, and `step_rms`,
        the length of the step times the root mean square of d.
    """
    x_t, found, w = x_0, [], scale - 1
    reads = {"residual_layers": residual_layers} if residual_layers else {}
    for t, after in zip(grid, grid[1:], strict=False):
        with computing(backbone):
            output = backbone(x_t, t, cond, None, attention_mask, "both", text_embeds=text_embeds, **reads)
        v, null = output.velocity.float().chunk(2)
        y_hat, d = answer(output, v, x_t, t), v - null
        square = masked_mean(d**2, frames)
        found.append(
            {
                "error": masked_mean((y_hat - v - w * d) ** 2, frames),
                "guidance": w**2 * square,
                "step_rms": (after - t) * square.sqrt(),
            }
        )
        x_t = x_t + (after - t) * y_hat
    return found


def probe_guidance(
    backbone: Backbone,
    answer: Callable[..., torch.Tensor],
    batch: MelBatch,
    scale: float,
    generator: torch.Generator | None = None,
    residual_layers: int = 0,
) -> dict[str, torch.Tensor]:
    """
    [`explained_guidance`] of four steps on the sway grid from the first rows of a batch, as figures of a validation.
    Prompts are those of pairs, and not counted; other rows have none.

    Args:
        answer (`Callable`): y_hat of the head, `answer(output, v, x_t, t, scale, attention_mask)`.

    Returns:
        `dict[str, torch.Tensor]`: `guidance_r2_step_0` to `guidance_r2_step_3`.
    """
    mel, mask, text_ids = batch.mel[:_PROBED], batch.attention_mask[:_PROBED], batch.text_ids[:_PROBED]
    durations = None if batch.durations is None else batch.durations[:_PROBED]
    position = torch.arange(mel.shape[1], device=mel.device)[None]
    target = (position >= batch.prompt_frames[:_PROBED, None]) & mask
    cond = mel.masked_fill(target[..., None], 0.0)
    with torch.no_grad(), computing(backbone):
        text_embeds = backbone.encode_text(text_ids, mask, mel.shape[1], True, durations)
    x_0 = torch.randn(mel.shape, generator=generator, device=mel.device)
    steps = explained_guidance(
        backbone,
        lambda output, v, x_t, t: answer(output, v, x_t, t, scale, mask),
        x_0,
        cond,
        text_embeds,
        mask,
        target,
        time_grid("sway", _PROBED_STEPS).tolist(),
        scale,
        residual_layers,
    )
    return {f"guidance_r2_step_{k}": 1 - step["error"] / step["guidance"] for k, step in enumerate(steps)}
