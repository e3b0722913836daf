"""
Ports of a backbone of F5-TTS v1's size, 336 M, with random weights: `python benchmarks/ports_full_size.py FOLDER DO`.

DO is what is done in this process, whose peak memory is printed: `export-fp32`, `export-fp16`, `export-int8` write a
port into FOLDER; `torch`, `fp32`, `fp16`, `int8` time passes of it and say how far they are from those of `torch`,
which come first and are kept there.
"""

import argparse
import os
import resource
import time
from pathlib import Path

import numpy as np
import torch

from dtm_hf import F5Backbone
from dtm_hf.ports.comparison import difference
from dtm_hf.ports.export import FORMATS, export_component
from dtm_hf.ports.graph import Graph
from dtm_hf.ports.graphs_f5 import backbone_graphs
from dtm_hf.ports.recipes import RECIPES
from dtm_hf.runtime.graphs import open_graphs
from dtm_hf.runtime.manifest import Manifest, RunGraph

SIZES = {"dim": 1024, "depth": 22, "heads": 16, "ff_mult": 2, "text_dim": 512, "conv_layers": 4}
SHAPES = ((1, 300), (2, 300), (1, 1000))


def random_backbone(depth: int) -> F5Backbone:
    """The same at each call; with every gate open, so that all blocks count."""
    torch.manual_seed(0)
    backbone = F5Backbone(**SIZES | {"depth": depth}, text_num_embeds=2545, name="f5-random", license="mit")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in backbone.parameters():
            std = 0.1 if not parameter.any() else 0.01
            parameter.add_(std * torch.randn(parameter.shape, generator=generator))
    return backbone


def inputs(rows: int, frames: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(rows * frames)
    mel = (rows, frames, 100)
    return {
        "sample": generator.standard_normal(mel, dtype=np.float32),
        "timestep": np.full(rows, 0.3, dtype=np.float32),
        "cond": generator.standard_normal(mel, dtype=np.float32),
        "text_embeds": generator.standard_normal((rows, frames, SIZES["text_dim"]), dtype=np.float32),
        "attention_mask": np.ones((rows, frames), dtype=bool),
    }


def open_pass(name: str, folder: Path, depth: int) -> RunGraph:
    if name == "torch":
        graphs: dict[str, Graph] = {graph.name: graph for graph in backbone_graphs(random_backbone(depth))}
        return graphs["backbone"]
    port = folder / name
    size = sum(path.stat().st_size for path in port.iterdir())
    print(f"{name}: {size / 1e6:.0f} MB")
    manifest = Manifest.load(port)
    return open_graphs(port, manifest, int(os.environ.get("OMP_NUM_THREADS", "1")))["backbone"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name", metavar="DO")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--depth", type=int, default=SIZES["depth"], help="blocks, fewer to try the command")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    if arguments.name.startswith("export-"):
        weights = arguments.name.removeprefix("export-")
        backbone = random_backbone(arguments.depth)
        export_component(backbone, RECIPES[F5Backbone], arguments.folder / weights, FORMATS["onnx"], weights)
        print(f"{arguments.name}: {time.perf_counter() - started:.0f} s")
    else:
        run = open_pass(arguments.name, arguments.folder, arguments.depth)
        print(f"{arguments.name}: opened in {time.perf_counter() - started:.1f} s")
        for shape in SHAPES:
            arrays, times = inputs(*shape), []
            for _ in range(arguments.repeats + 1):
                started = time.perf_counter()
                velocity = run(**arrays)["velocity"]
                times.append(time.perf_counter() - started)
            kept = arguments.folder / f"velocity-{shape[0]}x{shape[1]}.npz"
            took, off = float(np.median(times[1:])), ""
            if arguments.name == "torch":
                np.savez(kept, velocity=velocity, seconds=took)
            else:
                own = np.load(kept)
                found = difference(velocity, own["velocity"])
                off = (f", {took / own['seconds']:.2f} of torch's, 1 - correlation {found.correlation:.1e}, "
                       f"deviation {found.deviation:.1e}")  # fmt: skip
            print(f"{arguments.name}: {shape[0]} x {shape[1]} frames {took:.2f} s{off}", flush=True)
    print(f"{arguments.name}: peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
