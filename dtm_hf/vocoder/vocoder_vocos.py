"""The Vocos vocoder, which F5-TTS uses."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from transformers.utils.hub import cached_file

from dtm_hf.precision import computed_fast
from dtm_hf.reading import read_yaml
from dtm_hf.validation import (
    CheckedConfigMixin,
    Depth,
    MelBins,
    SamplingRate,
    Width,
    WindowSize,
    check_values,
)
from dtm_hf.weights import read_weights

from .batching import vocode_by_length

_CONFIG_FILE = "config.yaml"
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")

# The classes that an official config.yaml may name, and for their arguments the names they have here.
_CLASSES = {
    "feature_extractor": "vocos.feature_extractors.MelSpectrogramFeatures",
    "backbone": "vocos.models.VocosBackbone",
    "head": "vocos.heads.ISTFTHead",
}
_ARGUMENTS = {
    "feature_extractor": {
        "sample_rate": "sampling_rate",
        "n_fft": "n_fft",
        "hop_length": "hop_length",
        "n_mels": "input_channels",
        "padding": "padding",
    },
    "backbone": {
        "input_channels": "input_channels",
        "dim": "dim",
        "intermediate_dim": "intermediate_dim",
        "num_layers": "num_layers",
    },
    "head": {"dim": "dim", "n_fft": "n_fft", "hop_length": "hop_length", "padding": "padding"},
}


class VocosVocoder(CheckedConfigMixin, ModelMixin, ConfigMixin):
    """
    Waveforms from log-mels by Vocos (Siuzdak 2023, arXiv 2306.00814): ConvNeXt blocks and an inverse STFT. The network
    is the `vocos` package's own.

    Args:
        sampling_rate (`int`, defaults to 24000): Rate of the waveforms in Hz.
        input_channels (`int`, defaults to 100): Number of mel bins M.
        dim (`int`, defaults to 512): Width of the network.
        intermediate_dim (`int`, defaults to 1536): Width inside a block.
        num_layers (`int`, defaults to 8): Number of blocks.
        n_fft (`int`, defaults to 1024): Size of the Fourier transform in samples.
        hop_length (`int`, defaults to 256): Samples between frames.
        padding (`str`, defaults to `"center"`): `"center"`: N frames make `(N - 1) * hop_length` samples, as F5-TTS
            has it; `"same"`: `N * hop_length`.
        training_data (`str`, *optional*): What it was trained on.
        license (`str`, *optional*): Licence of the weights.
    """

    card_template = Path(__file__).parents[1] / "vocoder_card.md"

    @register_to_config
    def __init__(
        self,
        sampling_rate: SamplingRate = 24000,
        input_channels: MelBins = 100,
        dim: Width = 512,
        intermediate_dim: Width = 1536,
        num_layers: Depth = 8,
        n_fft: WindowSize = 1024,
        hop_length: WindowSize = 256,
        padding: Literal["center", "same"] = "center",
        training_data: str | None = None,
        license: str | None = None,
    ):
        super().__init__()
        from vocos.heads import ISTFTHead
        from vocos.models import VocosBackbone

        self.backbone = VocosBackbone(input_channels, dim, intermediate_dim, num_layers)
        self.head = ISTFTHead(dim, n_fft, hop_length, padding)

    @property
    def sampling_rate(self) -> int:
        """Samples per second."""
        return self.config.sampling_rate

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self.config.hop_length

    def forward(self, mel: torch.Tensor, lengths: torch.Tensor | Sequence[int] | None = None) -> torch.Tensor:
        """
        Args:
            mel (`torch.Tensor` of shape `[B, N, M]`):
                Natural logarithm of mel magnitudes, as [`F5FeatureExtractor`] makes them.
            lengths (`torch.Tensor` or sequence of shape `[B]`, *optional*):
                Valid frames per item.

        Returns:
            `torch.Tensor` of shape `[B, (N - 1) * hop_length]` (`N * hop_length` with `padding="same"`), float32.
            Zeros past the end of an item.

        Raises:
            ValueError: if the shape is another, or an item has fewer than 2 frames.
        """
        return vocode_by_length(self._decode, mel, lengths, num_channels=self.config.input_channels, min_frames=2)

    @computed_fast
    def _decode(self, mel: torch.Tensor) -> torch.Tensor:
        hidden = self.backbone(mel.to(self.dtype).transpose(1, 2))
        if self.dtype == torch.float32:
            # As it is, for gradients to reach it.
            with torch.autocast(mel.device.type, enabled=False):
                return self.head(hidden.float())
        # There is no half-precision complex arithmetic for the head to run in. Parameters stay of their class, which
        # the hooks of a sequential offload look at.
        weights = {name: value.float() for name, value in self.head.named_buffers()}
        for name, value in self.head.named_parameters():
            weights[name] = nn.Parameter(value.float(), requires_grad=False)
        with torch.autocast(mel.device.type, enabled=False):
            return torch.func.functional_call(self.head, weights, (hidden.float(),))

    def card_values(self) -> dict[str, Any]:
        """See [`~dtm_hf.hub.Publishable`]."""
        shown = "input_channels sampling_rate num_layers dim hop_length training_data".split()
        return {name: self.config[name] for name in shown} | {
            "model_name": "vocos",
            "license": self.config.license or "unknown",
            "pipeline_tag": "audio-to-audio",
            "tags": ["vocoder", "vocos", "dtm-hf"],
            "base_model": None,
            "parameters": f"{self.num_parameters():,}",
        }

    @classmethod
    def from_vocos_checkpoint(
        cls,
        path_or_repo: str | os.PathLike = "charactr/vocos-mel-24khz",
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> "VocosVocoder":
        """
        Read the official files of a mel Vocos: `config.yaml`, and `model.safetensors` or `pytorch_model.bin`.

        Args:
            path_or_repo (`str` or `os.PathLike`, defaults to `"charactr/vocos-mel-24khz"`):
                Folder, or Hub id.
            revision, cache_dir, token, local_files_only:
                As in `transformers.utils.cached_file`.

        Raises:
            FileNotFoundError: if one of the files is not there.
            OSError: if there is no such repository or revision.
            ValueError: if the configuration is of another model, a file is corrupt, or the weights do not fit; the
                message names them.
        """
        config_path, weights_path = _find_files(
            path_or_repo, revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only
        )
        model = cls(**_read_config(config_path))
        state_dict = _read_weights(weights_path)
        _check_weights(state_dict, model.state_dict(), weights_path)
        model.load_state_dict(state_dict)
        return model.eval()


def _find_files(path_or_repo: str | os.PathLike, **download) -> tuple[str, str]:
    def find(name: str) -> str | None:
        return cached_file(path_or_repo, name, _raise_exceptions_for_missing_entries=False, **download)

    config, weights = find(_CONFIG_FILE), next(filter(None, map(find, _WEIGHT_FILES)), None)
    if config is None or weights is None:
        raise FileNotFoundError(
            f"`path_or_repo` {os.fspath(path_or_repo)!r} must hold {_CONFIG_FILE} and one of "
            f"{', '.join(_WEIGHT_FILES)}, but holds {config or weights or 'neither'}."
        )
    return config, weights


def _read_config(path: str) -> dict[str, int | str]:
    """The arguments of [`VocosVocoder`] from a config.yaml, in which nothing but the expected classes may be named."""
    sections = read_yaml(path)
    if not isinstance(sections, Mapping):
        raise ValueError(f"{path} must have the sections {list(_CLASSES)}, but holds a {type(sections).__name__}.")
    config: dict[str, int | str] = {}
    for section, expected in _CLASSES.items():
        content = sections.get(section)
        content = content if isinstance(content, Mapping) else {}
        if content.get("class_path") != expected:
            raise ValueError(
                f"{path} must have `{section}.class_path: {expected}` (a mel Vocos), but has "
                f"{content.get('class_path')!r}."
            )
        arguments = content.get("init_args") or {}
        if set(arguments) != set(_ARGUMENTS[section]):
            raise ValueError(
                f"{path}: `{section}.init_args` must have the keys {sorted(_ARGUMENTS[section])}, but has "
                f"{sorted(arguments)}."
            )
        for argument, value in arguments.items():
            name = _ARGUMENTS[section][argument]
            if config.setdefault(name, value) != value:
                raise ValueError(f"{path}: `{section}.init_args.{argument}` is {value}, but elsewhere {config[name]}.")
    check_values(config, VocosVocoder.__init__, path)
    return config


def _read_weights(path: str) -> dict[str, torch.Tensor]:
    """Weights of the network; the feature extractor's constants, which some files hold, are left out."""
    return {name: value for name, value in read_weights(path).items() if not name.startswith("feature_extractor.")}


def _check_weights(given: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], path: str) -> None:
    problems = [f"missing {name}" for name in wanted if name not in given]
    problems += [f"unexpected {name}" for name in given if name not in wanted]
    problems += [
        f"{name} of shape {list(given[name].shape)} instead of {list(value.shape)}"
        for name, value in wanted.items()
        if name in given and given[name].shape != value.shape
    ]
    if problems:
        more = f" and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ValueError(f"{path} does not fit its {_CONFIG_FILE}: {', '.join(problems[:10])}{more}.")
