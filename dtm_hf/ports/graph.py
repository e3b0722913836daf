"""What is exported: a graph, and what a kind of component has to say to be exported as some."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True, eq=False)
class Graph:
    """
    One traceable network, called with tensors by name and giving tensors by name.

    Args:
        name (`str`): of its file.
        module (`nn.Module`): its `forward` takes the inputs as keywords and returns a dictionary of tensors.
        inputs (`dict[str, torch.Tensor]`): examples, each axis that varies longer than 1.
        axes (`dict[str, tuple[int, ...]]`): of each input the axes that vary.
    """

    name: str
    module: nn.Module
    inputs: dict[str, torch.Tensor]
    axes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @torch.no_grad()
    def __call__(self, **arrays: np.ndarray) -> dict[str, np.ndarray]:
        """The module on arrays, in the place of its port: what a port is compared with."""
        tensors = {name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in self.inputs}
        return {name: tensor.numpy() for name, tensor in self.module(**tensors).items()}


@dataclass(frozen=True)
class Recipe:
    """
    How components of one class are ported.

    Args:
        graphs (`Callable`): from a component to its list of [`Graph`].
        ported (`type`): of what stands where the component stood.
        gives_residual (`bool`, defaults to `False`): whether `graphs` takes `residual_layers`, as a backbone's pass
            does: the residual stream is an output for those who read it alone.
    """

    graphs: Callable[..., list[Graph]]
    ported: type
    gives_residual: bool = False

    def graphs_of(self, component: Any, residual_layers: int = 0) -> list[Graph]:
        """The graphs of a component, beside a head that reads the stream before so many last blocks."""
        return self.graphs(component, **{"residual_layers": residual_layers} if self.gives_residual else {})


# Examples: two rows, so that the tracer does not take a batch of one for the only one.
ROWS, FRAMES, TOKENS = 2, 24, 11


def example_mask(length: int) -> torch.Tensor:
    """`(ROWS, length)`, the second row a third shorter."""
    return torch.arange(length)[None] < torch.tensor([[length], [length - length // 3]])
