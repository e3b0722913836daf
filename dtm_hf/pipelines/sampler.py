"""Algorithm 4 of Transition Matching: noise to mel. Knows nothing of text, recordings or waveforms."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from dtm_hf.backbone.contract import Backbone
from dtm_hf.head.contract import Head
from dtm_hf.pipelines.guidance import Guidance
from dtm_hf.precision import computed_fast
from dtm_hf.scheduling.scheduling_dtm import DTMScheduler


@dataclass(eq=False)
class SamplingConditions:
    """
    What the rows of a batch are sampled from.

    Args:
        cond (`torch.Tensor` of shape `(B, N, M)`): log-mel of the prompts, zero elsewhere.
        text_ids (`torch.LongTensor` of shape `(B, N_text)`): token ids, padded with -1.
        attention_mask (`torch.BoolTensor` of shape `(B, N)`, *optional*): `True` at valid frames; `None` if all are.
        durations (`torch.LongTensor` of shape `(B, N_text)`, *optional*): frames of each token, for a backbone that is
            told.
    """

    cond: torch.Tensor
    text_ids: torch.Tensor
    attention_mask: torch.Tensor | None = None
    durations: torch.Tensor | None = None


@dataclass
class SamplingState:
    """
    What a call can be asked and told while it runs, between its steps. Every call has its own.

    Args:
        guidance ([`Guidance`]): of the steps to come.
        num_timesteps (`int`): backbone passes of the call, one a step.
        interrupt (`bool`, defaults to `False`): leave out the steps to come.
    """

    guidance: Guidance
    num_timesteps: int
    interrupt: bool = False


@computed_fast
def sample(
    backbone: Backbone,
    head: Head | None,
    scheduler: DTMScheduler,
    conditions: SamplingConditions,
    state: SamplingState,
    draw: Callable[[], torch.Tensor],
    latents: torch.Tensor | None = None,
    on_step_end: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """
    From noise X_0 to speech X_1: the global flow, each step with an inner flow of its own.

    Args:
        backbone ([`~dtm_hf.backbone.contract.Backbone`]): gives features and velocity.
        head ([`~dtm_hf.head.contract.Head`], *optional*): draws the displacement of a step where the scheduler has
            head steps.
        scheduler ([`DTMScheduler`]): with its timesteps set; it keeps the state of the walk, so one a call.
        conditions ([`SamplingConditions`]): of the batch.
        state ([`SamplingState`]): may change between two steps.
        draw (`Callable[[], torch.Tensor]`): standard normal noise `(B, N, M)`, float32: X_0, then Y_0 of each step.
        latents (`torch.Tensor` of shape `(B, N, M)`, *optional*): X_0, in the place of a first draw.
        on_step_end (`Callable`, *optional*): called as `on_step_end(i, t, x)`; returns the X to go on with.

    Returns:
        `torch.Tensor` of shape `(B, N, M)`: the log-mel, prompts included.
    """
    cond, mask = conditions.cond, conditions.attention_mask
    timesteps, with_head = scheduler.timesteps, scheduler.num_head_steps > 0
    # Asked once: reading a time from the device at each step would make each wait for it.
    times = timesteps.tolist()
    with_null = any(state.guidance.branch(time) == "both" for time in times)
    text_embeds = backbone.encode_text(conditions.text_ids, mask, cond.shape[1], with_null, conditions.durations)
    x_t = draw() if latents is None else latents
    reads = {}
    padding = None if mask is None else ~mask[..., None]
    if with_head:
        if getattr(head.config, "prediction", None) == "guidance":
            reads = {"residual_layers": head.config.residual_layers}
        modulations = head.prepare_schedule(timesteps, scheduler.head_timesteps, state.guidance.head_scale)
    for i, t in enumerate(timesteps):
        if state.interrupt:
            break
        guidance, branch = state.guidance, state.guidance.branch(times[i])
        # A student of several numbers of steps has to know which it is; any other backbone takes no notice.
        output = backbone(x_t, t, cond, None, mask, branch, text_embeds=text_embeds, num_steps=len(times), **reads)
        y = output.velocity.float()
        if padding is not None:
            # A rule of guidance that looks at whole utterances is to see nothing beyond their ends.
            y = y.masked_fill(padding if branch != "both" else torch.cat([padding, padding]), 0.0)
        if with_head and guidance.runs_head(times[i]):
            guide = guidance if branch == "both" else None
            features = output.joined(x_t) if reads else output.features
            y = sample_displacement(head, scheduler, features, y, t, modulations[i], guide, mask, draw())
        else:
            y = guidance.velocity(y, x_t, times[i], mask)
        x_t = scheduler.step(y, t, x_t).prev_sample
        if on_step_end is not None:
            x_t = on_step_end(i, t, x_t)
    return x_t


def sample_displacement(
    head: Head,
    scheduler: DTMScheduler,
    features: torch.Tensor,
    velocity: torch.Tensor,
    timestep: torch.Tensor,
    modulations: torch.Tensor,
    guidance: Guidance | None,
    attention_mask: torch.Tensor | None,
    y: torch.Tensor,
) -> torch.Tensor:
    """The inner flow: Y_0 ~ N(0, I) to Y. With guidance, features and velocity hold both branches."""
    states = head.prepare(features)
    if guidance is not None and attention_mask is not None:
        attention_mask = torch.cat([attention_mask, attention_mask])
    for s, modulation in zip(scheduler.head_timesteps, modulations, strict=True):
        g = head(
            None,
            y if guidance is None else torch.cat([y, y]),
            s,
            timestep=timestep,
            velocity=velocity,
            attention_mask=attention_mask,
            prepared_states=states,
            modulation=modulation,
        ).velocity
        if guidance is not None:
            if attention_mask is not None:
                g = g.masked_fill(~attention_mask[..., None], 0.0)
            g = guidance.combine(g)
        y = scheduler.head_step(g, s, y).prev_sample
    return y
