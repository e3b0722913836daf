"""Low-rank changes of weight matrices, and the names that a student's parameters have on disk."""

from collections.abc import Mapping

import torch

LORA_A, LORA_B = "lora_A", "lora_B"
NUM_STEPS_EMBED = "num_steps_embed"
# A student serves 1 to so many steps.
MAX_STEPS = 4


def add_low_rank(weights: dict[str, torch.Tensor], factors: Mapping[str, torch.Tensor], scale: float) -> None:
    """
    W + scale B A for each layer that has factors, computed in float32 and rounded once, in place of W.

    Args:
        weights (`dict[str, torch.Tensor]`): `NAME.weight`; the entries are replaced.
        factors (`dict[str, torch.Tensor]`): `NAME.lora_A.weight` and `NAME.lora_B.weight`; others are passed over.
        scale (`float`): alpha / rank.

    Raises:
        ValueError: if a layer is missing, or of another size.
    """
    for name, a in factors.items():
        layer, found, _ = name.partition(f".{LORA_A}.")
        if not found:
            continue
        b, weight = factors[f"{layer}.{LORA_B}.weight"], weights.get(f"{layer}.weight")
        shape = (b.shape[0], a.shape[1])
        # A convolution's factors are convolutions: the first carries the kernel.
        if weight is None or tuple(weight.shape[:2]) != shape:
            got = "there is none" if weight is None else f"got {tuple(weight.shape)}"
            raise ValueError(f"`{layer}.weight` must have shape {shape} for this student, but {got}.")
        product = (b.detach().float().flatten(1) @ a.detach().float().flatten(1)).reshape(weight.shape)
        weights[f"{layer}.weight"] = (weight.float() + scale * product.to(weight.device)).to(weight.dtype)
