"""What every gate does: a port's graphs answered for by the source's networks."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from dtm_hf.backbone.fingerprint import fingerprint_of
from dtm_hf.ports.comparison import Difference, difference
from dtm_hf.ports.graph import Graph
from dtm_hf.ports.ported import Ported
from dtm_hf.ports.recipes import recipe_of
from dtm_hf.ports.tolerance import Bar
from dtm_hf.runtime.manifest import RunGraph

# Three lengths, alone and as a batch of two of them.
TEXTS = ("Yes.", "The train leaves at nine.", "The train leaves at half past nine, and the next one at ten past ten.")
BATCHES = ((0,), (1,), (2,), (0, 2))
# Of two or three values a correlation tells nothing: such outputs are compared over many calls together.
_FEWEST_VALUES = 64


def texts_of(batches: Sequence[Sequence[int]]) -> list[str]:
    """Each text that the batches speak, once."""
    return [TEXTS[i] for i in sorted({i for batch in batches for i in batch})]


class Compared:
    """
    A graph of the port that is answered for by the source: both run, and what follows follows the source.

    Args:
        ported (`Callable`), source (`Callable`): the graph of either.
    """

    def __init__(self, ported: RunGraph, source: RunGraph):
        self.ported, self.source = ported, source
        self.differences: list[tuple[str, Difference]] = []
        self._few: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}

    def __call__(self, **arrays: np.ndarray) -> Mapping[str, np.ndarray]:
        expected, output = self.source(**arrays), self.ported(**arrays)
        for name, value in expected.items():
            found = np.asarray(output[name])
            if 0 < value.size < _FEWEST_VALUES and found.shape == value.shape:
                self._few.setdefault(name, []).append((found.ravel(), value.ravel()))
            else:
                self.differences.append((name, difference(found, value)))
        return expected

    def close(self) -> None:
        """Compare what came in few values."""
        for name, pairs in self._few.items():
            self.differences.append((name, difference(*(np.concatenate(side) for side in zip(*pairs, strict=True)))))
        self._few.clear()


def ported_parts(source: DiffusionPipeline, ported: DiffusionPipeline, needed: str) -> dict[str, Ported]:
    """
    The ported components by name.

    Args:
        source, ported: the two pipelines.
        needed (`str`): the component that no port of such a pipeline is without.

    Raises:
        ValueError: if `ported` holds no port, or one of another pipeline.
    """
    parts = {name: part for name, part in ported.components.items() if isinstance(part, Ported)}
    if type(source) is not type(ported):
        raise ValueError(f"`PORT` is a {type(ported).__name__}, and `MODEL` a {type(source).__name__}.")
    if needed not in parts:
        raise ValueError("`PORT` holds no port; `dtm-hf export` makes one.")
    for name, part in parts.items():
        component = source.components[name]
        graphs = None if component is None else recipe_of(name, component)
        mark = None if graphs is None else fingerprint_of(component)
        if mark != part.fingerprint:
            raise ValueError(
                f"`PORT` was made of another {name}: its fingerprint is {part.fingerprint}, that of `MODEL` {mark}."
            )
    return parts


def source_graphs(source: DiffusionPipeline, name: str, part: Ported) -> dict[str, Graph]:
    """The networks of a component of the source by name, with the outputs that its port has."""
    component, manifest = source.components[name], part.manifest
    return {graph.name: graph for graph in recipe_of(name, component).graphs_of(component, manifest.residual_layers)}


def compare_graphs(
    source: DiffusionPipeline, parts: dict[str, Ported], run: Callable[[], None], bar: Bar
) -> tuple[dict[str, Any], dict[str, list[tuple[str, Difference]]]]:
    """
    Every graph on the inputs that real speech gives it.

    Args:
        source: the source.
        parts (`dict[str, Ported]`): of the port.
        run (`Callable`): speaks with the port, so that every graph runs in every way that it can.
        bar ([`Bar`]): what is allowed.

    Returns:
        A graph and its worst output, by name; and all differences in their order.
    """
    compared: dict[str, Compared] = {}
    kept = {name: dict(part.graphs) for name, part in parts.items()}
    try:
        for name, part in parts.items():
            sources = source_graphs(source, name, part)
            for graph in part.graphs:
                compared[f"{name}/{graph}"] = part.graphs[graph] = Compared(part.graphs[graph], sources[graph])
        run()
    finally:
        for name, part in parts.items():
            part.graphs.update(kept[name])
    graphs = {}
    for name, graph in compared.items():
        graph.close()
        # Padded frames are nobody's; those of a batch are compared all the same, for both sides compute them alike.
        worst = max((found for _, found in graph.differences), key=_badness, default=Difference(fault="never ran"))
        wrong = [f"{output} {found.fault}" for output, found in graph.differences if found.fault]
        graphs[name] = dataclasses.asdict(worst) | {
            "calls": len(graph.differences),
            "passed": bool(graph.differences) and not wrong and all(d.within(bar) for _, d in graph.differences),
        }
    return graphs, {name: graph.differences for name, graph in compared.items()}


def _badness(found: Difference) -> float:
    return float("inf") if found.fault else found.deviation
