"""A network that FSDP keeps in shards: what cannot go with it, and its parameters as whole tensors and back."""

from collections.abc import Iterable, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor, distribute_tensor

from dtm_hf.training.config.arguments import TrainingConfig


def check_sharding(accelerator: Accelerator, config: TrainingConfig, shardable: Sequence[str]) -> None:
    """
    Args:
        shardable (`list[str]`): objectives that can be trained in shards.

    Raises:
        ValueError: if FSDP is asked for together with what needs the network, or its optimizer, in one piece.
    """
    if accelerator.distributed_type != DistributedType.FSDP:
        return
    version = accelerator.state.fsdp_plugin.fsdp_version
    if version != 2:
        raise ValueError(f"`fsdp_version` must be 2, but got {version}.")
    if config.model.objective not in shardable:
        names = " or ".join(map(repr, shardable))
        raise ValueError(f"`objective` must be {names} under FSDP, but got {config.model.objective!r}.")
    if config.optimization.optimizer == "muon":
        # Accelerate saves one optimizer a model.
        raise ValueError("`optimizer` must be one of AdamW under FSDP, but got 'muon'.")
    for name in ("sample_prompts", "sample_prompts_file", "push_to_hub"):
        if getattr(config.logging, name):
            # The main process would do it alone, with the shard that it has.
            raise ValueError(f"`{name}` must be left out under FSDP, but got {getattr(config.logging, name)!r}.")


def is_sharded(parameters: Iterable[torch.Tensor]) -> bool:
    """Whether any of them lies in shards."""
    return any(isinstance(parameter, DTensor) for parameter in parameters)


def whole(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """The same tensors, none in shards. Every process must call this, for each holds a part."""
    return [tensor.full_tensor() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


def sharded_like(tensors: Iterable[torch.Tensor], parameters: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Whole tensors, each cut as the parameter in its place is. Every process must call this, with the same ones."""
    return [
        distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
        if isinstance(parameter, DTensor)
        else tensor
        for tensor, parameter in zip(tensors, parameters, strict=True)
    ]
