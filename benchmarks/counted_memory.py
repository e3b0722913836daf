"""What a training step keeps in memory: `benchmarks/training_cost.py --count-memory`."""

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from unittest import mock

if TYPE_CHECKING:
    from training_cost import Bench

# Who asks for the frozen network's precision: see `as_on_cuda`.
_OBJECTIVES = ("policy", "dtm")
_PRECISION = "dtm_hf.precision"


def live_bytes():
    """A mode that knows how many bytes of tensors made inside it are alive, and the most there were in each part."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensor
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.weak import WeakIdKeyDictionary

    class LiveBytes(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.now, self.part, self.peaks, self.known = 0, "", {}, WeakIdKeyDictionary()

        def enter(self, part: str) -> None:
            self.part = part
            self.peaks[part] = max(self.peaks.get(part, 0), self.now)

        def forget(self, size: int) -> None:
            self.now -= size

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
                # It has no content. The first of the numbers of steps is drawn, and not all frames are valid.
                return 0
            result = function(*args, **(kwargs or {}))
            for tensor in tree_leaves(result):
                storage = tensor.untyped_storage() if hasattr(tensor, "untyped_storage") else None
                if storage is None or storage in self.known:
                    continue
                size = storage.nbytes()
                self.known[storage] = size
                weakref.finalize(storage, self.forget, size)
                self.now += size
            self.enter(self.part)
            return result

    return LiveBytes()


def _real_time_grid(*args, **kwargs):
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    from dtm_hf.scheduling.time_grids import time_grid

    with unset_fake_temporarily():
        return time_grid(*args, **kwargs)


@contextlib.contextmanager
def as_on_cuda(bench: "Bench") -> Iterator[None]:
    """Layer norms in float32 and autocast around the frozen network too, as CUDA has them and the CPU does not."""
    from dtm_hf.backbone.contract import F5TextEmbeds

    def encoded(text_ids, attention_mask, num_frames, with_null=True, durations=None) -> F5TextEmbeds:
        # Row by row, by lengths that a tensor without content does not have.
        shape = (len(text_ids), num_frames, bench.backbone.config.text_dim)
        cond, null = (bench.torch.empty(shape, dtype=bench.backbone.dtype) for _ in range(2))
        return F5TextEmbeds(cond=cond, null=null)

    handles = [
        module.register_forward_pre_hook(lambda _module, inputs: (inputs[0].float(), *inputs[1:]))
        for module in (*bench.head.modules(), *bench.backbone.modules())
        if isinstance(module, bench.torch.nn.LayerNorm)
    ]
    with contextlib.ExitStack() as stack:
        for name in _OBJECTIVES:
            target = f"dtm_hf.training.objectives.{name}.computing"
            stack.enter_context(mock.patch(target, lambda _model: contextlib.nullcontext()))
        stack.enter_context(mock.patch(f"{_PRECISION}.FasterFloat32", contextlib.nullcontext))
        stack.enter_context(mock.patch("dtm_hf.training.objectives.policy.time_grid", _real_time_grid))
        stack.enter_context(mock.patch.object(bench.backbone, "encode_text", encoded))
        yield
    for handle in handles:
        handle.remove()


def count_step(bench: "Bench", objective, utterances: int) -> dict[str, int]:
    """Most bytes alive in each part of a step, beyond the weights and their averages; and what autograd keeps."""
    import torch

    batch = bench.batch(utterances)
    weights = {p.untyped_storage()._cdata for p in (*bench.parameters, *bench.backbone.parameters())}
    kept: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with live_bytes() as live:
        live.enter("passes and head")
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), bench.precision():
            loss = objective.loss(bench.head, batch).loss
        live.enter("backward")
        loss.backward()
        live.enter("optimizer")
        del loss
        bench.finish_step()
    # The batch was made before.
    mel = sum(tensor.untyped_storage().nbytes() for tensor in (batch.mel, batch.attention_mask, batch.text_ids))
    parts = {part: size + mel for part, size in live.peaks.items() if part}
    return parts | {"kept by autograd": sum(kept.values())}


def _without_content(module) -> None:
    """A module on the meta device, as if it were on the CPU; in fake mode."""
    import torch

    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                fake = torch.empty(weight.shape, dtype=weight.dtype)
                part._parameters[name] = torch.nn.Parameter(fake, requires_grad=weight.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def count_memory(build: Callable[..., "Bench"], frames: int) -> None:
    """
    Print what each objective of a bench needs for a batch of `frames`, with and without gradient checkpointing, from a
    step on tensors that have a size and no content.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    # The times of a grid are real.
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def place(module) -> None:
        with mode:
            _without_content(module)

    bench = build(place=place)
    with mode, as_on_cuda(bench):
        _count(bench, max(frames // bench.utterance_frames, 1))


def _count(bench: "Bench", utterances: int) -> None:
    # Adam's moments and the gradients' layout exist from the first step on.
    count_step(bench, next(iter(bench.objectives().values())), 1)
    moments = [v for optimizer in bench.optimizers for state in optimizer.state.values() for v in state.values()]
    sizes = {
        f"backbone, {str(bench.backbone.dtype).removeprefix('torch.')}": sum(
            p.nbytes for p in bench.backbone.state_dict().values()
        ),
        "head, float32": sum(p.nbytes for p in bench.parameters),
        "Adam's two moments": sum(value.nbytes for value in moments if value.ndim),
        "averaged weights": sum(p.nbytes for p in bench.ema.shadow_params),
    }
    fixed = sum(sizes.values())
    print(
        f"Counted for {utterances} utterances of {bench.utterance_frames} frames. Every tensor's storage is counted "
        "from the operation that makes it until it is freed, the gradients among them; what autograd keeps is the "
        "storages that saved_tensors_hooks saw, without weights. Not counted: the text encoder, the work space inside "
        "a kernel, the allocator's rounding, the CUDA context (about half a GB). GB are 10^9 bytes."
    )
    for name, size in sizes.items():
        print(f"{name:34s} {size / 1e9:7.2f} GB")
    for checkpointing in (True, False):
        if checkpointing:
            bench.head.gradient_checkpointing_enable()
        else:
            bench.head.gradient_checkpointing_disable()
        for name, objective in bench.objectives().items():
            lines = count_step(bench, objective, utterances)
            kept = lines.pop("kept by autograd")
            worst = max(lines, key=lines.get)
            each = ", ".join(f"{part} {size / 1e9:.2f}" for part, size in lines.items())
            print(
                f"{name:10s} {'gradient checkpointing' if checkpointing else '':22s} peak "
                f"{(fixed + lines[worst]) / 1e9:6.2f} GB, in the {worst} (beyond the fixed {fixed / 1e9:.2f}: {each}; "
                f"kept by autograd {kept / 1e9:.2f})",
                flush=True,
            )
