"""Bfloat16 on CPUs, where it is not always the fast choice."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

# Measured on AVX-512 cores with torch 2.11: the bfloat16 backward passes of these cost two to five times the float32
# ones, and together half of a training step of a small DiT.
_FASTER_IN_FLOAT32 = frozenset({F.scaled_dot_product_attention, F.mish, F.conv1d})
# Where oneDNN has no bfloat16, torch falls back to loops: a product of matrices took 60 times as long as in float32 on
# a processor with AVX2 alone.
_SLOW_WITHOUT_BFLOAT16 = _FASTER_IN_FLOAT32 | {F.linear}


def computes_in_bfloat16() -> bool:
    """Whether this processor multiplies matrices in bfloat16 other than by torch's loops (AVX-512 at least)."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


class FasterFloat32(TorchFunctionMode):
    """
    Around a forward pass in bfloat16 autocast on a CPU: attention, convolutions and Mish run in float32.

    Args:
        functions (`frozenset`, *optional*): What runs in float32 in the place of these.
        keeps_dtype (`bool`, defaults to `False`): The results have the dtype of the first argument, for a network
            that is in bfloat16 as a whole.
    """

    def __init__(self, functions: frozenset = _FASTER_IN_FLOAT32, keeps_dtype: bool = False):
        super().__init__()
        self.functions, self.keeps_dtype = functions, keeps_dtype

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func not in self.functions:
            return func(*args, **(kwargs or {}))
        floats = [_in_float32(value) for value in args]
        named = {name: _in_float32(value) for name, value in (kwargs or {}).items()}
        with torch.autocast("cpu", enabled=False):
            result = func(*floats, **named)
        return result.to(args[0].dtype) if self.keeps_dtype else result


def _in_float32(value):
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


@contextmanager
def computing(model) -> Iterator[None]:
    """
    Around the calls of a network with `dtype` and `device`: one that is in bfloat16 on a CPU computes in it, for
    autocast would leave a norm there with two dtypes. Where the processor has none, its products are those of float32,
    rounded; with a gradient they are not, since a recomputation in the backward pass is outside of this.
    """
    if model.dtype == torch.float32 or model.device.type != "cpu":
        yield
        return
    plain = computes_in_bfloat16() or torch.is_grad_enabled()
    with (
        torch.autocast("cpu", enabled=False),
        nullcontext() if plain else FasterFloat32(_SLOW_WITHOUT_BFLOAT16, keeps_dtype=True),
    ):
        yield


def computed_fast(function: Callable) -> Callable:
    """A function of a network, its first argument, whose calls are [`computing`]."""

    @functools.wraps(function)
    def wrapped(model, *args, **kwargs):
        with computing(model):
            return function(model, *args, **kwargs)

    return wrapped
