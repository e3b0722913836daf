"""A pipeline to a port of it: the networks as graphs, the rest as it is."""

import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.export import Dim
from transformers.exporters import AutoHfExporter, ExportedModel
from transformers.modeling_utils import PreTrainedModel

from dtm_hf.backbone.fingerprint import WeightsSketch, fingerprint_of
from dtm_hf.files import folder_written_aside
from dtm_hf.ports.graph import Graph, Recipe
from dtm_hf.ports.recipes import recipe_of, residual_layers_read
from dtm_hf.ports.weights import quantizer_of
from dtm_hf.runtime.manifest import EXPORT_FILE, Manifest
from dtm_hf.runtime.openvino_graphs import import_openvino

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline


@dataclass(frozen=True)
class PortFormat:
    """
    A format as users name it.

    Args:
        export_format (`str`): as transformers names it.
        packages (`tuple[str, ...]`): what has to be installed to export and to run it.
        extra (`str`): of this package, which brings them.
        weights (`tuple[str, ...]`): types that its weights can be kept in.
    """

    export_format: str
    packages: tuple[str, ...]
    extra: str
    weights: tuple[str, ...]


FORMATS = {
    "onnx": PortFormat("onnx", ("onnx", "onnxscript", "onnxruntime"), "ports", ("fp32", "fp16", "int8")),
    "openvino": PortFormat("openvino", ("openvino",), "openvino", ("fp32", "fp16")),
    "torch_export": PortFormat("dynamo", (), "ports", ("fp32",)),
}


def check_format(name: str, weights: str) -> PortFormat:
    """
    Raises:
        ValueError: for a format or a type of weights that there is not.
        ImportError: if a package that the format needs is not installed.
    """
    if name not in FORMATS:
        raise ValueError(f"`format` must be one of {', '.join(FORMATS)}, but got {name!r}.")
    port_format = FORMATS[name]
    if weights not in port_format.weights:
        raise ValueError(f"`weights` must be one of {', '.join(port_format.weights)} for {name}, but got {weights!r}.")
    missing = [package for package in port_format.packages if find_spec(package) is None]
    if missing:
        raise ImportError(
            f'`format` {name!r} needs {", ".join(missing)}: `pip install "dtm-hf[{port_format.extra}]"`.'
        )
    return port_format


def export_pipeline(
    pipeline: "DiffusionPipeline", folder: str | Path, export_format: str = "onnx", weights: str = "fp32"
) -> None:
    """
    Write a port of a pipeline: a pipeline folder in which graphs stand for the networks, with a `port.json` beside
    each that says what it was made of. The folder is complete or absent.

    Args:
        pipeline ([`DTMPipeline`] or [`SpeechT5Pipeline`]): on the CPU, in float32.
        folder (`str` or `Path`): to write; must not exist or be empty.
        export_format (`str`, defaults to `"onnx"`): `"onnx"`, `"openvino"` or `"torch_export"`.
        weights (`str`, defaults to `"fp32"`): of the file: `"fp32"`; `"fp16"`, computed in float32; `"int8"`.

    Raises:
        ValueError: for a format that there is not, a component that cannot be exported, or a pipeline that is not in
            float32 on the CPU, before anything is exported.
        ImportError: if a package that the format needs is not installed.
    """
    port_format = check_format(export_format, weights)
    recipes = {name: recipe_of(name, component) for name, component in pipeline.components.items()}
    for name, component in pipeline.components.items():
        if recipes[name] is not None and (component.dtype, component.device.type) != (torch.float32, "cpu"):
            raise ValueError(
                f"`pipeline` must be in float32 on the CPU to be exported, but its {name} is in {component.dtype} on "
                f"{component.device}."
            )
    residual_layers = residual_layers_read(pipeline.components)
    with folder_written_aside(folder) as aside, tempfile.TemporaryDirectory(dir=aside.parent) as work:
        components = dict(pipeline.components)
        for name, recipe in recipes.items():
            if recipe is not None:
                part = Path(work) / name
                export_component(components[name], recipe, part, port_format, weights, residual_layers)
                components[name] = recipe.ported.from_pretrained(part)
        _, options = pipeline._get_signature_keys(pipeline)
        options = {name: pipeline.config[name] for name in options if name in pipeline.config}
        type(pipeline)(**options | components).save_pretrained(aside)


def export_component(
    component: Any, recipe: Recipe, folder: Path, port_format: PortFormat, weights: str, residual_layers: int = 0
) -> None:
    """
    Write the graphs of one component, its configuration and its `port.json` into `folder`.

    Args:
        component: to export.
        recipe ([`Recipe`]): of its class.
        folder (`Path`): to write into.
        port_format ([`PortFormat`]), weights (`str`): of the graphs.
        residual_layers (`int`, defaults to 0): what the head beside it reads of a backbone's residual stream.
    """
    exported = _export_graphs(recipe.graphs_of(component, residual_layers), port_format.export_format, weights)
    exported.save_pretrained(folder)
    manifest = json.loads((folder / EXPORT_FILE).read_text(encoding="utf-8"))
    config = component.config
    if isinstance(component, PreTrainedModel):
        config.save_pretrained(folder)
    else:
        component.save_config(folder)
    Manifest(
        export_format=port_format.export_format,
        weights=weights,
        graphs={name: entry["file"] for name, entry in manifest["components"].items()},
        source_class=type(component).__name__,
        fingerprint=fingerprint_of(component),
        sketch=str(WeightsSketch.of(component)),
        num_parameters=sum(parameter.numel() for parameter in component.parameters()),
        revision=getattr(config, "revision", None),
        residual_layers=residual_layers if recipe.gives_residual else 0,
    ).save(folder)


def _export_graphs(graphs: list[Graph], export_format: str, weights: str) -> ExportedModel:
    """Trace and convert: transformers does it, one of its components a graph."""
    if export_format == "openvino":
        # Before transformers does, which would leave its telemetry in.
        import_openvino()
    exporter = AutoHfExporter.from_config({"export_format": export_format})
    components = {}
    for graph in graphs:
        shapes = {name: dict.fromkeys(graph.axes.get(name, ()), Dim.DYNAMIC) for name in graph.inputs}
        options: dict[str, Any] = {"dynamic_shapes": shapes}
        if (quantizer := quantizer_of(export_format, weights)) is not None:
            options["quantizer"] = quantizer
        if export_format == "openvino":
            # A cache is an input and an output here, and no state of the graph.
            options["stateful"] = False
        try:
            with _quiet():
                exported = exporter.export(graph.module.eval(), dict(graph.inputs), exporter.config_class(**options))
        except Exception as error:
            # Tracing raises whatever it comes upon; the graph's name is what can be acted on.
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            asked = next(name for name, known in FORMATS.items() if known.export_format == export_format)
            raise ValueError(f"The graph {graph.name!r} cannot be exported as {asked}: {first}") from error
        component = exported.components["model"]
        if export_format == "onnx":
            from onnx_ir.passes.common import ClearMetadataAndDocStringPass

            # Where each node was traced: of no use to a runtime, and a fifth of a small graph.
            ClearMetadataAndDocStringPass()(component.program)
        components[graph.name] = component
    return ExportedModel(components, export_format)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep off the terminal what the exporters say of their progress, their versions and functions they lack."""
    levels = {name: logging.getLogger(name).level for name in ("transformers", "torch.onnx", "root")}
    try:
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
