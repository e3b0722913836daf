"""What [`F5Backbone`] refuses before it runs."""

import torch


def check_inputs(mel_dim: int, sample, cond, text_ids, attention_mask, branch, text_embeds) -> None:
    """Refuse shapes and values that do not fit a backbone of `mel_dim` mel bins."""
    if branch not in ("cond", "null", "both"):
        raise ValueError(f'`branch` must be "cond", "null" or "both", but got {branch!r}.')
    if (text_ids is None) == (text_embeds is None):
        raise ValueError("Exactly one of `text_ids` and `text_embeds` must be given.")
    if sample.ndim != 3 or sample.shape[-1] != mel_dim:
        raise ValueError(f"`sample` must have shape (B, N, {mel_dim}), but got {tuple(sample.shape)}.")
    if cond.shape != sample.shape:
        raise ValueError(
            f"`cond` must have the shape of `sample`, {tuple(sample.shape)}, but got {tuple(cond.shape)}."
        )
    if text_ids is not None and (text_ids.ndim != 2 or len(text_ids) != len(sample)):
        raise ValueError(f"`text_ids` must have shape ({len(sample)}, N_text), but got {tuple(text_ids.shape)}.")
    if attention_mask is not None and attention_mask.shape != sample.shape[:2]:
        raise ValueError(
            f"`attention_mask` must have shape {tuple(sample.shape[:2])}, but got {tuple(attention_mask.shape)}."
        )


def check_num_steps(served: list[int] | None, needed: bool, num_steps: torch.Tensor | int | None) -> None:
    """Refuse a number of steps that a student does not serve, and none where one is needed."""
    if isinstance(num_steps, int) and served is not None and num_steps not in served:
        raise ValueError(f"`num_steps` must be one of {served}, which this student serves, but got {num_steps}.")
    if num_steps is None and needed:
        raise ValueError(f"`num_steps` must be one of {served}, which this student serves, but got none.")
