"""The gate: is a port its source? Graph by graph, step by step, as speech, and at what cost."""

import dataclasses
import os
import platform
import resource
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dtm_hf.pipelines.pipeline_dtm import DTMPipeline
from dtm_hf.ports.comparison import Difference, difference
from dtm_hf.ports.ported import Ported
from dtm_hf.ports.recipes import recipe_of
from dtm_hf.ports.tolerance import BARS, Bar
from dtm_hf.runtime.manifest import RunGraph

# Three lengths, alone and as a batch of two of them.
TEXTS = ("Yes.", "The train leaves at nine.", "The train leaves at half past nine, and the next one at ten past ten.")
_ALL_FRAMES = 1 << 20
BATCHES = ((0,), (1,), (2,), (0, 2))
# Several steps, both branches and, with a head, two calls a step: every graph runs in every way that it can.
SETTINGS = ({"num_inference_steps": 4, "num_head_steps": 2}, {"num_inference_steps": 3, "num_head_steps": 0})


class _Compared:
    """A graph of the port that is answered for by the source: both run, and what follows follows the source."""

    def __init__(self, name: str, ported: RunGraph, source: RunGraph):
        self.name, self.ported, self.source = name, ported, source
        self.differences: list[tuple[str, Difference]] = []

    def __call__(self, **arrays: np.ndarray) -> Mapping[str, np.ndarray]:
        expected, output = self.source(**arrays), self.ported(**arrays)
        for name, value in expected.items():
            self.differences.append((name, difference(np.asarray(output[name]), value)))
        return expected


def check_same_source(source: DTMPipeline, ported: DTMPipeline) -> dict[str, Ported]:
    """
    The ported components by name.

    Raises:
        ValueError: if `ported` holds no port, or one of another pipeline.
    """
    parts = {name: part for name, part in ported.components.items() if isinstance(part, Ported)}
    if "backbone" not in parts:
        raise ValueError("`PORT` holds no port; `dtm-hf export` makes one.")
    for name, part in parts.items():
        component = source.components[name]
        graphs = None if component is None else recipe_of(name, component)
        mark = None if graphs is None else _fingerprint(component)
        if mark != part.fingerprint:
            raise ValueError(
                f"`PORT` was made of another {name}: its fingerprint is {part.fingerprint}, that of `MODEL` {mark}."
            )
    return parts


def _fingerprint(component: torch.nn.Module) -> str:
    from dtm_hf.backbone.fingerprint import weights_fingerprint

    return getattr(component, "fingerprint", None) or weights_fingerprint(component)


def check_parity(
    source: DTMPipeline, ported: DTMPipeline, reference_audio: Any, reference_text: str, time_passes: int = 5
) -> dict[str, Any]:
    """
    Compare a port with its source.

    Args:
        source ([`DTMPipeline`]), ported ([`DTMPipeline`]): on the CPU.
        reference_audio, reference_text (`str`): a recording to speak like.
        time_passes (`int`, defaults to 5): passes of the backbone that are timed; 0 times nothing.

    Returns:
        `dict`: the report, ready for JSON; `passed` says whether every rung holds.

    Raises:
        ValueError: if the two do not belong together.
    """
    parts = check_same_source(source, ported)
    weights = parts["backbone"].manifest.weights
    bar = BARS[weights]
    for pipeline in (source, ported):
        pipeline.set_progress_bar_config(disable=True)
    report: dict[str, Any] = {"weights": weights, "bar": dataclasses.asdict(bar), "rungs": {}}
    report["rungs"]["graphs"] = _graphs(source, ported, parts, reference_audio, reference_text, bar)
    report["rungs"]["free run"] = _free_run(source, ported, reference_audio, reference_text, bar)
    report["passed"] = all(rung["passed"] for rung in report["rungs"].values())
    report["cost"] = _cost(source, parts, time_passes)
    return report


def _speak(pipeline: DTMPipeline, texts: Sequence[str], reference_audio, reference_text, seed: int = 0, **settings):
    guidance = 1.0
    if pipeline.head is None or settings["num_head_steps"] == 0:
        guidance = 1.0 if pipeline.backbone.config["step_counts"] else 2.0
        if pipeline.backbone.config["step_counts"]:
            settings["num_inference_steps"] = pipeline.backbone.config["step_counts"][-1]
    else:
        guidance = pipeline.head.config.guidance_scale or 2.0
    generators = [torch.Generator().manual_seed(seed + i) for i in range(len(texts))]
    return pipeline(
        list(texts),
        reference_audio,
        reference_text,
        generator=generators,
        guidance_scale=guidance,
        output_type="mel",
        # All rows at once: a graph has to take padding too.
        max_batch_frames=_ALL_FRAMES,
        **settings,
    ).audios


def _graphs(source, ported, parts, reference_audio, reference_text, bar: Bar) -> dict[str, Any]:
    """Every graph on the inputs that real speech gives it, and the course of the backbone's error over the steps."""
    compared: dict[str, _Compared] = {}
    kept = {name: dict(part.graphs) for name, part in parts.items()}
    try:
        for name, part in parts.items():
            component = source.components[name]
            sources = {graph.name: graph for graph in recipe_of(name, component).graphs(component)}
            for graph in part.graphs:
                compared[f"{name}/{graph}"] = part.graphs[graph] = _Compared(graph, part.graphs[graph], sources[graph])
        for batch in BATCHES:
            for settings in SETTINGS:
                mels = _speak(ported, [TEXTS[i] for i in batch], reference_audio, reference_text, **settings)
                if "vocoder" in parts:
                    ported.vocoder(mels[0][None])
    finally:
        for name, part in parts.items():
            part.graphs.update(kept[name])
    graphs = {}
    for name, graph in compared.items():
        # Padded frames are nobody's; those of a batch are compared all the same, for both sides compute them alike.
        worst = max((found for _, found in graph.differences), key=_badness, default=Difference(fault="never ran"))
        wrong = [f"{output} {found.fault}" for output, found in graph.differences if found.fault]
        graphs[name] = dataclasses.asdict(worst) | {
            "calls": len(graph.differences),
            "passed": bool(graph.differences) and not wrong and all(d.within(bar) for _, d in graph.differences),
        }
    steps = [found.correlation for output, found in compared["backbone/backbone"].differences if output == "velocity"]
    first = steps[: SETTINGS[0]["num_inference_steps"]]
    return {"passed": all(g["passed"] for g in graphs.values()), "graphs": graphs, "teacher forced": first}


def _badness(found: Difference) -> float:
    return float("inf") if found.fault else found.deviation


def _free_run(source, ported, reference_audio, reference_text, bar: Bar) -> dict[str, Any]:
    """Whole utterances from the same noise, beside what another seed changes."""
    rows = []
    for batch in BATCHES:
        texts = [TEXTS[i] for i in batch]
        for settings in SETTINGS:
            expected = _speak(source, texts, reference_audio, reference_text, **settings)
            spoken = _speak(ported, texts, reference_audio, reference_text, **settings)
            other = _speak(source, texts, reference_audio, reference_text, seed=100, **settings)
            for text, mel, wanted, elsewise in zip(texts, spoken, expected, other, strict=True):
                same = mel.shape == wanted.shape
                frames = min(len(wanted), len(elsewise))
                spread = float((wanted[:frames] - elsewise[:frames]).abs().mean())
                distance = float((mel - wanted).abs().mean()) if same else float("inf")
                rows.append(
                    {
                        "text": text,
                        "rows": len(batch),
                        "frames": [len(mel), len(wanted)],
                        "mel distance": distance,
                        "of two seeds": spread,
                        "passed": same and distance <= bar.speech * spread,
                    }
                )
    return {"passed": all(row["passed"] for row in rows), "utterances": rows}


def _cost(source, parts, passes: int) -> dict[str, Any]:
    """Size, and the time of a pass in turns, so that what else the machine does falls on both."""
    part = parts["backbone"]
    size = sum(path.stat().st_size for p in parts.values() for path in p.folder.iterdir() if path.suffix != ".json")
    cost: dict[str, Any] = {
        "graph bytes": size,
        "parameter bytes": sum(
            parameter.nbytes for name in parts for parameter in source.components[name].parameters()
        ),
        "peak resident bytes of both": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "torch threads": torch.get_num_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }
    if passes:
        graph = next(g for g in recipe_of("backbone", source.backbone).graphs(source.backbone) if g.name == "backbone")
        arrays = {name: _longer(tensor.numpy(), graph.axes[name]) for name, tensor in graph.inputs.items()}
        times = {"source": [], "port": []}
        for _ in range(passes + 1):
            for name, run in (("source", graph), ("port", part.graphs["backbone"])):
                started = time.perf_counter()
                run(**arrays)
                times[name].append(time.perf_counter() - started)
        # The first pass of each warms up.
        medians = {name: float(np.median(values[1:])) for name, values in times.items()}
        cost["pass seconds, 1 row of 300 frames"] = medians
        cost["pass ratio"] = medians["port"] / medians["source"]
    return cost


def _longer(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """An example of one row and 300 frames."""
    array = array[:1]
    return np.resize(array, (1, 300, *array.shape[2:])) if 1 in axes else array
