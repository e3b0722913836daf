"""The architecture of a component as tables: what its graphs take, and every weight that it has."""

import re
from collections import Counter
from typing import Any

import torch
from torch import nn

from dtm_hf.ports.ported import Ported
from dtm_hf.ports.recipes import recipe_of

_LAYER = re.compile(r"(?<=\.)\d+(?=\.)")


def architecture(name: str, component: Any) -> list[str]:
    """
    Lines of Markdown: the graphs of a component with their inputs, and its parameters and buffers, those of equal
    layers in a line.

    Args:
        name (`str`): of the component in its pipeline.
        component: a network of which there are graphs, on any device; the weights are not looked at. A port shows its
            graphs alone.

    Raises:
        ValueError: if there are no graphs of it.
    """
    if isinstance(component, Ported):
        files = [f"| `{graph}` | `{file}` |" for graph, file in component.manifest.graphs.items()]
        return ["| graph | file |", "|---|---|", *files]
    recipe = recipe_of(name, component)
    if recipe is None:
        raise ValueError(f"`{name}` has no graphs: it stays in a port as it is.")
    lines = ["| graph | inputs; an axis that varies is `*` |", "|---|---|"]
    for graph in recipe.graphs_of(component):
        inputs = [f"`{key}` {_shape(tensor, graph.axes.get(key, ()))}" for key, tensor in graph.inputs.items()]
        lines.append(f"| `{graph.name}` | {', '.join(inputs)} |")
    return [*lines, "", *weights_table(component)]


def weights_table(module: nn.Module) -> list[str]:
    """Lines of Markdown: parameters and what else is saved with them, with their sum."""
    parameters = dict(module.named_parameters())
    saved = {name: tensor for name, tensor in module.state_dict().items() if isinstance(tensor, torch.Tensor)}
    rows = Counter((_LAYER.sub("*", name), _shape(tensor), name in parameters) for name, tensor in saved.items())
    lines = ["| weight | shape | how many |", "|---|---|---|"]
    for (pattern, shape, trained), count in rows.items():
        lines.append(f"| `{pattern}`{'' if trained else ', no parameter'} | {shape} | {count} |")
    numbers, others = sum(tensor.numel() for tensor in parameters.values()), len(saved) - len(parameters)
    return [
        *lines,
        "",
        f"{len(parameters)} parameters with {numbers:,} numbers, {others} further entries of the state, "
        f"{len(saved)} in all.",
    ]


def _shape(tensor: torch.Tensor, axes: tuple[int, ...] = ()) -> str:
    return " x ".join("*" if axis in axes else str(size) for axis, size in enumerate(tensor.shape)) or "1"
