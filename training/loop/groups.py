"""Parameters that are trained together: their optimizers, their schedules, and their gradients over processes."""

from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator

from dtm_hf.training.config.arguments import OptimizationArguments
from dtm_hf.training.loop.optimization import build_optimizers, build_schedules


class ParameterGroup:
    """
    Args:
        name (`str`): of the group.
        trainable (`dict[str, torch.nn.Parameter]`): its parameters by name.
        options ([`OptimizationArguments`]): optimizer, learning rate and schedule.
        learning_rate (`float`, *optional*): in place of the one in `options`.
    """

    def __init__(
        self,
        name: str,
        trainable: Mapping[str, torch.nn.Parameter],
        options: OptimizationArguments,
        learning_rate: float | None = None,
    ):
        self.name, self.parameters = name, list(trainable.values())
        self.optimizers = build_optimizers(trainable, options, learning_rate)
        self.schedules = build_schedules(self.optimizers, options)


def average_gradients(accelerator: Accelerator, parameters: Sequence[torch.nn.Parameter]) -> None:
    """The mean over processes, for parameters that DistributedDataParallel does not know; every process calls this."""
    if accelerator.num_processes == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    # One message: an adapter has hundreds of small matrices.
    flat = torch.cat([parameter.grad.flatten() for parameter in parameters])
    parts = accelerator.reduce(flat, "mean").split([parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad.copy_(part.view_as(parameter))
