"""`port.json`: what the folder of a ported component says of itself."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dtm_hf.reading import read_json

PORT_FILE = "port.json"
# transformers' file, which names the graphs.
EXPORT_FILE = "export.json"
CONFIG_FILE = "config.json"
PORT_VERSION = 1

RunGraph = Callable[..., Mapping[str, np.ndarray]]
"""A graph, called with arrays by name and giving arrays by name."""


@dataclass(frozen=True)
class Manifest:
    """
    What a ported component is a port of.

    Args:
        export_format (`str`): `"onnx"`, `"openvino"` or `"dynamo"`, transformers' name of it.
        weights (`str`): `"fp32"`, `"fp16"` or `"int8"`.
        graphs (`dict[str, str]`): file of each graph by its name.
        source_class (`str`): class of the component it was made of.
        fingerprint (`str`): of the weights of that component, before they were rounded.
        sketch (`str`): [`~dtm_hf.backbone.fingerprint.WeightsSketch`] of them.
        num_parameters (`int`): how many they are.
        revision (`str`, *optional*): of the repository that the component came from.
        version (`int`): of this format.
        residual_layers (`int`, defaults to 0): of a backbone: its pass gives the residual stream before so many last
            blocks too, for the head that it was exported with.
    """

    export_format: str
    weights: str
    graphs: dict[str, str]
    source_class: str
    fingerprint: str
    sketch: str
    num_parameters: int
    revision: str | None = None
    version: int = PORT_VERSION
    residual_layers: int = 0

    def save(self, folder: Path) -> None:
        """Write `port.json` into `folder`."""
        text = json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)
        (folder / PORT_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """
        Read `port.json`.

        Raises:
            FileNotFoundError: if it is not there, or a graph that it names is not.
            ValueError: if it is of a later version, or no port.json at all.
        """
        path = folder / PORT_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{str(folder)!r} holds no port: there is no {PORT_FILE} in it.")
        content = read_json(path)
        try:
            version = content["version"]
            if version > PORT_VERSION:
                raise ValueError(
                    f"{str(path)!r} is of version {version}, and this dtm-hf reads up to {PORT_VERSION}; upgrade it."
                )
            # Ports that were written before there was a residual stream to give do not speak of one.
            content = {"residual_layers": 0} | content
            manifest = cls(**{field.name: content[field.name] for field in dataclasses.fields(cls)})
        except (KeyError, TypeError) as error:
            raise ValueError(f"{str(path)!r} is damaged: {error!r}.") from error
        for name, file in manifest.graphs.items():
            if not (folder / file).is_file():
                raise FileNotFoundError(f"The graph {name!r} is missing: {str(folder / file)!r} is not there.")
        return manifest


def check_head(folder: Path, config: Mapping[str, Any], backbone: Manifest, force: bool) -> None:
    """
    Args:
        folder (`Path`): of the port, for messages.
        config (`dict`): of its head.
        backbone ([`Manifest`]): of its backbone.
        force (`bool`): take a head that was trained on another backbone.

    Raises:
        ValueError: if the head was trained on another backbone, or reads what the backbone's port does not give.
    """
    trained_on = config.get("backbone_fingerprint")
    if trained_on not in (None, backbone.fingerprint) and not force:
        raise ValueError(
            f"The head of {str(folder)!r} was trained on a backbone with fingerprint {trained_on}, but the port's is "
            f"of {backbone.fingerprint}."
        )
    layers = config.get("residual_layers", 0)
    if layers not in (0, backbone.residual_layers):
        raise ValueError(
            f"The head of {str(folder)!r} reads the residual stream before the last {layers} blocks of its backbone, "
            f"and the port of that gives it before the last {backbone.residual_layers}."
        )
