"""Half precision on CPUs, where it is not always the fast choice."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

# Measured on AVX-512 cores with torch 2.11: the bfloat16 backward passes of these cost two to five times the float32
# ones, and together half of a training step of a small DiT.
_FASTER_IN_FLOAT32 = {F.scaled_dot_product_attention, F.mish, F.conv1d}
# Where oneDNN has no kernels of a type, torch falls back to loops: on a processor with AVX2 alone a linear layer took
# 9 times as long in bfloat16 as in float32, and 6 times in float16.
_SLOW_IN_LOOPS = {F.linear, F.conv1d, F.scaled_dot_product_attention}


def multiplies_in(dtype: torch.dtype) -> bool:
    """Whether this processor multiplies matrices of a type other than by torch's loops."""
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype != torch.float16 or torch.ops.mkldnn._is_mkldnn_fp16_supported()


class FasterFloat32(TorchFunctionMode):
    """Around a forward pass in bfloat16 autocast on a CPU: attention, convolutions and Mish run in float32."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func not in _FASTER_IN_FLOAT32:
            return func(*args, **(kwargs or {}))
        return _in_float32(func, args, kwargs)


class Float32Products(TorchFunctionMode):
    """Around a network in half precision: what this processor does not multiply is that of float32, rounded."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        # A network that is offloaded says nothing of where it computes; its inputs do.
        if func not in _SLOW_IN_LOOPS or not args or args[0].device.type != "cpu" or multiplies_in(args[0].dtype):
            return func(*args, **(kwargs or {}))
        return _in_float32(func, args, kwargs).to(args[0].dtype)


def _in_float32(func: Callable, args: tuple, kwargs: dict | None) -> torch.Tensor:
    def converted(value):
        return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    named = {name: converted(value) for name, value in (kwargs or {}).items()}
    with torch.autocast("cpu", enabled=False):
        return func(*map(converted, args), **named)


@contextmanager
def computing(model) -> Iterator[None]:
    """
    Around the calls of a network with `dtype` and `device`: one that is in half precision on a CPU computes in it, for
    autocast would leave a norm there with two dtypes. What the processor does not multiply is [`Float32Products`];
    with a gradient it is not, since a recomputation in the backward pass is outside of this.
    """
    if model.dtype == torch.float32 or model.device.type not in ("cpu", "meta"):
        yield
        return
    plain = multiplies_in(model.dtype) or torch.is_grad_enabled()
    with torch.autocast("cpu", enabled=False), nullcontext() if plain else Float32Products():
        yield


def computed_fast(function: Callable) -> Callable:
    """A function of a network, its first argument, whose calls are [`computing`]."""

    @functools.wraps(function)
    def wrapped(model, *args, **kwargs):
        with computing(model):
            return function(model, *args, **kwargs)

    return wrapped
