"""Ported components: each stands in a pipeline where the component stood, and runs its graphs instead of a network."""

import inspect
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from diffusers.configuration_utils import FrozenDict
from torch import nn

from dtm_hf.backbone.backbone_f5 import F5Backbone
from dtm_hf.backbone.contract import Branch, F5BackboneOutput, F5TextEmbeds
from dtm_hf.backbone.fingerprint import WeightsSketch
from dtm_hf.head.configuration_dtm import DTMHeadConfig
from dtm_hf.head.contract import DTMHeadOutput
from dtm_hf.pipelines.rows import MAX_FRAMES
from dtm_hf.reading import read_json
from dtm_hf.runtime.graphs import RUNTIMES, open_graphs
from dtm_hf.runtime.manifest import CONFIG_FILE, EXPORT_FILE, Manifest, RunGraph
from dtm_hf.runtime.networks import Backbone, Head, TextEmbeds, Vocos
from dtm_hf.vocoder.batching import vocode_by_length


class Ported(nn.Module):
    """
    A component whose networks are graphs. It has no parameters, computes on the CPU in float32, and cannot be trained;
    tensors may come from any device, and go back to it.

    Args:
        folder (`Path`): that [`~dtm_hf.ports.export.export_component`] wrote; files stay there.
        manifest ([`Manifest`]): read from it.
    """

    dtype = torch.float32
    device = torch.device("cpu")
    network: ClassVar[type]

    def __init__(self, folder: Path, manifest: Manifest):
        super().__init__()
        self.folder, self.manifest = folder, manifest
        content = read_json(folder / CONFIG_FILE)
        self.config = self._read_config(content)
        self.graphs = _open(folder, manifest)
        self._runs = self.network(content, self.graphs)

    def _read_config(self, content: dict[str, Any]) -> Any:
        return FrozenDict(content)

    @property
    def fingerprint(self) -> str:
        """Of the weights that the port was made of."""
        return self.manifest.fingerprint

    @property
    def sketch(self) -> WeightsSketch:
        """Of the weights that the port was made of."""
        return WeightsSketch.parse(self.manifest.sketch)

    def register_to_config(self, **kwargs) -> None:
        """As of diffusers' configurations, which are replaced and not changed."""
        self.config = FrozenDict(dict(self.config) | kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """Copy the files of the port into `save_directory`. Other arguments of pipelines are passed over."""
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        for path in self.folder.iterdir():
            if path.is_file() and Path(save_directory, path.name).resolve() != path.resolve():
                shutil.copyfile(path, Path(save_directory, path.name))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        subfolder: str | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **kwargs,
    ) -> Self:
        """
        Open a ported component in a folder or a Hub repository; arguments as of every `from_pretrained`, of which
        those that concern weights are passed over.

        Raises:
            FileNotFoundError: if there is no port, or a graph of it is missing.
            ValueError: if a file is damaged.
            ImportError: if its runtime is not installed.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            folder = Path(
                snapshot_download(
                    str(pretrained_model_name_or_path),
                    revision=revision,
                    cache_dir=cache_dir,
                    token=token,
                    local_files_only=local_files_only,
                    allow_patterns=f"{subfolder}/*" if subfolder else None,
                )
            )
        folder = folder / (subfolder or "")
        return cls(folder, Manifest.load(folder))


def _open(folder: Path, manifest: Manifest) -> dict[str, RunGraph]:
    if manifest.export_format in RUNTIMES:
        return open_graphs(folder, manifest)
    from transformers.exporters import ExportMetadata
    from transformers.exporters.auto import get_exporter_class, get_runner_class

    # Not `ExportedModel.from_pretrained`, which takes the component's config.json for one of transformers.
    exporter, runner = get_exporter_class(manifest.export_format), get_runner_class(manifest.export_format)
    graphs = {}
    for name, entry in read_json(folder / EXPORT_FILE)["components"].items():
        metadata = ExportMetadata.from_dict(entry["metadata"])
        graphs[name] = _RunnerGraph(
            runner.from_program(exporter.load_program(folder / entry["file"]), metadata, "cpu")
        )
    return graphs


class _RunnerGraph:
    """A graph in one of transformers' runners, which serve one caller at a time."""

    def __init__(self, runner):
        self.runner, self.inputs = runner, set(runner.metadata.kwargs)
        self._lock = threading.Lock()

    def __call__(self, **arrays: np.ndarray) -> dict[str, np.ndarray]:
        tensors = {name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in self.inputs}
        with self._lock:
            outputs = self.runner(**tensors)
            return {name: tensor.numpy().copy() for name, tensor in outputs.items()}


def _array(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _lengths(attention_mask: torch.Tensor | None, rows: int, num_frames: int) -> list[int]:
    return [num_frames] * rows if attention_mask is None else attention_mask.sum(dim=1).tolist()


class PortedBackbone(Ported):
    """An [`F5Backbone`], or a student, as graphs: see [`~dtm_hf.backbone.contract.Backbone`]."""

    network = Backbone
    # As many positions as the text encoder has; a graph computes them, and has no bound of its own.
    max_frames = MAX_FRAMES

    @property
    def residual_layers(self) -> int:
        """The residual stream is given before so many last blocks, or with 0 not at all."""
        return self.manifest.residual_layers

    def _read_config(self, content: dict[str, Any]) -> FrozenDict:
        # What a later version has added has its default in the ports of earlier ones.
        arguments = inspect.signature(F5Backbone.__init__).parameters.values()
        defaults = {argument.name: argument.default for argument in arguments if argument.name != "self"}
        return FrozenDict(defaults | content)

    def encode_text(
        self,
        text_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        num_frames: int,
        with_null: bool = True,
        durations: torch.Tensor | None = None,
    ) -> F5TextEmbeds:
        """As of [`F5Backbone.encode_text`]."""
        if (durations is None) == (self.config["text_alignment"] == "durations"):
            raise ValueError('`durations` must be given to a backbone whose `text_alignment` is "durations", alone.')
        ids = [row[row >= 0].cpu().numpy() for row in text_ids]
        embeds = self._runs.encode_text(
            ids,
            _lengths(attention_mask, len(ids), num_frames),
            num_frames,
            with_null,
            None
            if durations is None
            else [row[: len(i)].cpu().numpy() for row, i in zip(durations, ids, strict=True)],
        )
        cond = torch.from_numpy(embeds.cond).to(text_ids.device)
        return F5TextEmbeds(cond=cond, null=torch.from_numpy(embeds.null).to(cond.device) if with_null else cond)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float,
        cond: torch.Tensor,
        text_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        branch: Branch = "cond",
        text_embeds: F5TextEmbeds | None = None,
        *,
        num_steps: int | None = None,
        durations: torch.Tensor | None = None,
        residual_layers: int = 0,
    ) -> F5BackboneOutput:
        """As of [`F5Backbone.forward`], without what only training asks for."""
        if residual_layers not in (0, self.residual_layers):
            raise ValueError(
                f"`residual_layers` must be 0 or {self.residual_layers}, with which this port was exported, but got "
                f"{residual_layers}."
            )
        if text_embeds is None:
            text_embeds = self.encode_text(text_ids, attention_mask, sample.shape[1], branch != "cond", durations)
        output = self._runs(
            _array(sample),
            _array(torch.as_tensor(timestep, dtype=torch.float32)),
            _array(cond),
            TextEmbeds(_array(text_embeds.cond), _array(text_embeds.null)),
            None if attention_mask is None else attention_mask.cpu().numpy(),
            branch,
            num_steps,
            residual_layers,
        )
        return F5BackboneOutput(
            **{
                name: None if array is None else torch.from_numpy(array).to(sample.device)
                for name, array in vars(output).items()
            }
        )


class PortedHead(Ported):
    """A [`DTMHead`] as graphs: see [`~dtm_hf.head.contract.Head`]."""

    network = Head

    def _read_config(self, content: dict[str, Any]) -> DTMHeadConfig:
        return DTMHeadConfig.from_dict(content)

    def card_values(self) -> dict[str, Any]:
        """What the model card of a head says: see [`~dtm_hf.hub.Publishable`]."""
        return self.config.provenance_values() | {
            "head": self.config,
            "head_parameters": f"{self.manifest.num_parameters:,}",
        }

    def prepare_schedule(
        self, timesteps: torch.Tensor, flow_times: torch.Tensor, guidance_scale: float | None = None
    ) -> torch.Tensor:
        """As of [`DTMHead.prepare_schedule`]."""
        modulations = self._runs.prepare_schedule(_array(timesteps), _array(flow_times), guidance_scale)
        return torch.from_numpy(modulations).to(timesteps.device)

    def prepare(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """As of [`DTMHead.prepare`]."""
        return torch.from_numpy(self._runs.prepare(_array(hidden_states))).to(hidden_states.device)

    def forward(
        self,
        hidden_states: torch.Tensor | None,
        flow_state: torch.Tensor,
        flow_time: torch.Tensor | float,
        *,
        timestep: torch.Tensor | float,
        velocity: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        prepared_states: torch.Tensor | None = None,
        modulation: torch.Tensor | None = None,
    ) -> DTMHeadOutput:
        """As of [`DTMHead.forward`], at one pair of times for all rows."""
        s = float(flow_time)
        if prepared_states is None:
            prepared_states = self.prepare(hidden_states)
        if modulation is None:
            modulation = self.prepare_schedule(torch.tensor([float(timestep)]), torch.tensor([s]))[0, 0]
        g = self._runs(
            _array(prepared_states),
            _array(flow_state),
            s,
            _array(velocity),
            _array(modulation),
            None if attention_mask is None else attention_mask.cpu().numpy(),
        )
        flow_velocity = torch.from_numpy(g).to(flow_state.device)
        return DTMHeadOutput(velocity=flow_velocity, displacement=flow_state + (1 - s) * flow_velocity)


class PortedVocoder(Ported):
    """A [`VocosVocoder`] as a graph: see [`~dtm_hf.vocoder.contract.Vocoder`]."""

    network = Vocos

    @property
    def sampling_rate(self) -> int:
        """Samples per second."""
        return self._runs.sampling_rate

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self._runs.hop_length

    def forward(self, mel: torch.Tensor, lengths: torch.Tensor | Sequence[int] | None = None) -> torch.Tensor:
        """As of [`VocosVocoder.forward`]."""

        def vocode(mels: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(np.stack([self._runs(_array(one)) for one in mels])).to(mels.device)

        return vocode_by_length(vocode, mel, lengths, num_channels=self.config["input_channels"], min_frames=2)


__all__ = ["Ported", "PortedBackbone", "PortedHead", "PortedVocoder"]
