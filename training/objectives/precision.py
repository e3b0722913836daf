"""Mixed precision on CPUs, where bfloat16 is not always the fast choice."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

# Measured on AVX-512 cores with torch 2.11: the bfloat16 backward passes of these cost two to five times the float32
# ones, and together half of a training step of a small DiT.
_FASTER_IN_FLOAT32 = {F.scaled_dot_product_attention, F.mish, F.conv1d}


class FasterFloat32(TorchFunctionMode):
    """Around a forward pass in bfloat16 autocast on a CPU: attention, convolutions and Mish run in float32."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func not in _FASTER_IN_FLOAT32:
            return func(*args, **(kwargs or {}))
        args = tuple(
            value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value for value in args
        )
        with torch.autocast("cpu", enabled=False):
            return func(*args, **(kwargs or {}))


def computing(model) -> AbstractContextManager:
    """
    Around the calls of a network with `dtype` and `device`: one that is in bfloat16 on a CPU computes in it, for
    autocast would leave a norm there with two dtypes.
    """
    whole = model.dtype != torch.float32 and model.device.type == "cpu"
    return torch.autocast("cpu", enabled=False) if whole else nullcontext()
