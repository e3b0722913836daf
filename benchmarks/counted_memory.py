"""What a training step keeps in memory, counted on the CPU: `benchmarks/training_cost.py --count-memory`."""

import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training_cost import Bench


def live_bytes():
    """A mode that knows how many bytes of tensors made inside it are alive, and the most there were in each part."""
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


def as_on_cuda(bench: "Bench") -> None:
    """CUDA's autocast computes layer norms in float32, that of the CPU does not: make it so here."""
    for module in (*bench.head.modules(), *bench.backbone.modules()):
        if isinstance(module, bench.torch.nn.LayerNorm):
            module.register_forward_pre_hook(lambda _module, inputs: (inputs[0].float(), *inputs[1:]))


def count_step(bench: "Bench", objective, utterances: int) -> dict[str, int]:
    """Most bytes alive in each part of a step, beyond the weights and their averages; and what autograd keeps."""
    import torch

    batch = bench.batch(utterances)
    weights = {p.untyped_storage().data_ptr() for p in (*bench.parameters, *bench.backbone.parameters())}
    kept: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
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


def count_memory(bench: "Bench", frames: int, few: int) -> None:
    """
    Print what each objective of `bench` needs for a batch of `frames`, with and without gradient checkpointing:
    counted at `few` utterances and at twice as many, and extended as a straight line.
    """
    many, length = 2 * few, bench.utterance_frames
    as_on_cuda(bench)
    # Adam's moments and the gradients' layout exist from the first step on.
    bench.step(next(iter(bench.objectives().values())), bench.batch(1))
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
        f"Counted at {few} and {many} utterances of {length} frames on the CPU, and extended as a straight line to "
        f"{frames:,} frames. Every tensor's storage is counted from the operation that makes it until it is freed, "
        "the gradients among them; what autograd keeps is the storages that saved_tensors_hooks saw, without weights. "
        "Not counted: the work space inside a kernel, the allocator's rounding, the CUDA context (about half a GB). "
        "Layer norms are in float32, as CUDA's autocast has them. GB are 10^9 bytes."
    )
    for name, size in sizes.items():
        print(f"{name:34s} {size / 1e9:7.2f} GB")
    for checkpointing in (True, False):
        if checkpointing:
            bench.head.gradient_checkpointing_enable()
        else:
            bench.head.gradient_checkpointing_disable()
        for name, objective in bench.objectives().items():
            low, high = (count_step(bench, objective, utterances) for utterances in (few, many))
            lines = {}
            for part in low:
                slope = (high[part] - low[part]) / ((many - few) * length)
                lines[part] = high[part] + slope * (frames - many * length)
            kept = lines.pop("kept by autograd")
            worst = max(lines, key=lines.get)
            each = ", ".join(f"{part} {size / 1e9:.2f}" for part, size in lines.items())
            print(
                f"{name:22s} {'gradient checkpointing' if checkpointing else '':22s} peak "
                f"{(fixed + lines[worst]) / 1e9:6.2f} GB, in the {worst} (beyond the fixed {fixed / 1e9:.2f}: {each}; "
                f"kept by autograd {kept / 1e9:.2f})",
                flush=True,
            )
