"""From logits to codes: how one is drawn."""

import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


def logits_warpers(
    temperature: float = 0.8, top_k: int | None = 50, top_p: float | None = None
) -> LogitsProcessorList:
    """
    transformers' own warpers, in its order. A temperature of 0, which takes the likeliest code, needs none; what is
    drawn of such is drawn without a `draw`.

    Raises:
        ValueError: for a negative temperature, `top_k` below 1 or `top_p` outside (0, 1].
    """
    if not temperature >= 0:
        raise ValueError(f"`temperature` must be at least 0, but got {temperature}.")
    if top_k is not None and top_k < 1:
        raise ValueError(f"`top_k` must be at least 1, or None, but got {top_k}.")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"`top_p` must lie in (0, 1], or be None, but got {top_p}.")
    warpers = LogitsProcessorList()
    if temperature == 0:
        return warpers
    if temperature != 1:
        warpers.append(TemperatureLogitsWarper(float(temperature)))
    if top_k is not None:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p is not None and top_p < 1:
        warpers.append(TopPLogitsWarper(float(top_p)))
    return warpers


def draw_codes(
    logits: torch.Tensor, warpers: LogitsProcessorList, uniform: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Args:
        logits (`torch.Tensor` of shape `(B, T, V)`): of one codebook.
        warpers (`LogitsProcessorList`): of [`logits_warpers`].
        uniform (`torch.Tensor` of shape `(B, T)`, *optional*): where in the cumulative distribution the codes are
            drawn; `None` takes the likeliest.

    Returns:
        `tuple` of codes `(B, T)` and their log-probabilities `(B, T)` before any warping.
    """
    log_probs = logits.float().log_softmax(dim=-1)
    if uniform is None:
        codes = log_probs.argmax(dim=-1)
    else:
        flat = log_probs.flatten(0, 1)
        probs = warpers(None, flat).softmax(dim=-1).unflatten(0, logits.shape[:2])
        cumulative = probs.cumsum(dim=-1)
        # Scaled to the sum as it came out: rounding leaves it a little off 1.
        point = uniform[..., None].to(cumulative) * cumulative[..., -1:]
        codes = torch.searchsorted(cumulative, point, right=True)[..., 0].clamp(max=logits.shape[-1] - 1)
    return codes, log_probs.gather(-1, codes[..., None])[..., 0]
