"""What every objective draws: the frames to predict, the dropped conditions and the time."""

from dataclasses import dataclass

import torch

from dtm_hf.scheduling.time_grids import sway
from dtm_hf.training.objectives.arguments import ConditioningArguments


@dataclass
class MelBatch:
    """
    A batch as the objectives see it.

    Args:
        mel (`torch.Tensor` of shape `(B, N, M)`): X_1, log-mel; 0 past the end of an item.
        attention_mask (`torch.BoolTensor` of shape `(B, N)`): `True` at valid frames.
        text_ids (`torch.LongTensor` of shape `(B, N_text)`): token ids, padded with -1.
        prompt_frames (`torch.LongTensor` of shape `(B,)`): frames of the prompt in a pair, else 0.
        durations (`torch.LongTensor` of shape `(B, N_text)`, *optional*): frames of each token, for a backbone that is
            told.
    """

    mel: torch.Tensor
    attention_mask: torch.Tensor
    text_ids: torch.Tensor
    prompt_frames: torch.Tensor
    durations: torch.Tensor | None = None


@dataclass
class Conditions:
    """
    Args:
        span (`torch.BoolTensor` of shape `(B, N)`): frames to predict.
        loss_frames (`torch.BoolTensor` of shape `(B, N)`): frames that enter a loss: the span, or all valid ones.
        cond (`torch.Tensor` of shape `(B, N, M)`): the audio condition, zero in the span and in dropped rows.
        drop_text (`torch.BoolTensor` of shape `(B,)`): rows whose text is dropped.
    """

    span: torch.Tensor
    loss_frames: torch.Tensor
    cond: torch.Tensor
    drop_text: torch.Tensor


def draw_conditions(
    batch: MelBatch, arguments: ConditioningArguments, generator: torch.Generator | None = None
) -> Conditions:
    """
    F5-TTS's infilling task: a random span of 70-100% of an utterance is predicted from the rest of its audio and its
    text. In `pair_target_prob` of the prompt+target pairs the span is the target, as at inference. Conditions are
    dropped per sample.

    With `prompt_loss` the known frames are predicted too. The sampler walks them from noise like the others, and a
    velocity that no loss has seen leads them where the network never was; with guidance 3 the target follows.
    """
    mel, mask = batch.mel, batch.attention_mask
    size, device = len(mel), mel.device

    def uniform() -> torch.Tensor:
        return torch.rand(size, generator=generator, device=device)

    lengths = mask.sum(dim=1)
    low, high = arguments.frac_lengths_mask
    span_frames = ((low + (high - low) * uniform()) * lengths).long()
    start = ((lengths - span_frames) * uniform()).long()
    position = torch.arange(mel.shape[1], device=device)[None]
    span = (position >= start[:, None]) & (position < (start + span_frames)[:, None])
    target = position >= batch.prompt_frames[:, None]
    as_pair = (batch.prompt_frames > 0) & (uniform() < arguments.pair_target_prob)
    span = torch.where(as_pair[:, None], target, span) & mask

    drop_text = uniform() < arguments.cond_drop_prob
    drop_audio = (uniform() < arguments.audio_drop_prob) | drop_text
    cond = mel.masked_fill(span[..., None] | drop_audio[:, None, None], 0.0)
    return Conditions(span, mask if arguments.prompt_loss else span, cond, drop_text)


def draw_guided_conditions(
    batch: MelBatch, arguments: ConditioningArguments, generator: torch.Generator | None = None
) -> Conditions:
    """[`draw_conditions`] of a head with guidance baked in, which never runs on the null branch: none is dropped."""
    conditions = draw_conditions(batch, arguments, generator)
    conditions.drop_text[:] = False
    conditions.cond = batch.mel.masked_fill(conditions.span[..., None], 0.0)
    return conditions


def draw_times(
    sampling: str,
    size: int,
    device: torch.device,
    *,
    grid: torch.Tensor | None = None,
    logit_mean: float = 0.0,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """
    Times in [0, 1), shape `(size,)`: `"grid"` (an entry of `grid`), `"uniform"`, `"sway"` (uniform, then swayed with
    c=-1: dense near the noise, where the text decides), `"sway_twice"` (denser: half of the draws below 0.1, a fifth
    above 0.5) or `"logit_normal"`.
    """
    if sampling == "grid":
        return grid.to(device)[torch.randint(len(grid), (size,), generator=generator, device=device)]
    if sampling == "logit_normal":
        return torch.sigmoid(torch.randn(size, generator=generator, device=device) + logit_mean)
    u = torch.rand(size, generator=generator, device=device)
    for _ in range({"uniform": 0, "sway": 1, "sway_twice": 2}[sampling]):
        u = sway(u, -1.0)
    return u


def jitter_durations(
    durations: torch.Tensor, largest: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """
    Durations as somebody would guess them who has not heard the recording: the end of each token but the last is moved
    by a normal deviate, whose standard deviation each row draws from [0, `largest`] frames. A backbone that was never
    told wrong says each token just when it is told to, and at inference a guess is all there is.

    Args:
        durations (`torch.LongTensor` of shape `(B, N_text)`): frames of each token, 0 at padding.
        largest (`float`): in frames.

    Returns:
        `torch.LongTensor` of shape `(B, N_text)`: of the same sum; a token may get no frame.
    """
    ends = durations.cumsum(dim=1)
    total, device = ends[:, -1:], durations.device
    scale = largest * torch.rand(len(ends), 1, generator=generator, device=device)
    shift = scale * torch.randn(ends.shape, generator=generator, device=device)
    moved = torch.where(ends < total, ends + shift.round().long(), ends)
    return moved.clamp(min=0).minimum(total).sort(dim=1).values.diff(dim=1, prepend=torch.zeros_like(total))
