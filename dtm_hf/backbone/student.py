"""
A distilled student as it is kept on disk beside its base: the low-rank change of the weights, a few MB, and what it
changes. Reading it needs no peft.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from safetensors.torch import load_file, save_file

from dtm_hf.backbone.backbone_f5 import F5Backbone
from dtm_hf.backbone.low_rank import NUM_STEPS_EMBED, add_low_rank
from dtm_hf.files import written_aside

STUDENT_CONFIG = "student_config.json"
STUDENT_WEIGHTS = "student.safetensors"


@dataclass
class StudentConfig:
    """
    What a student is a student of, and how it is sampled.

    Args:
        rank (`int`): of the change of each matrix.
        alpha (`float`): the change is alpha / rank times the product of its factors.
        step_counts (`list[int]`): numbers of steps it serves.
        sampler (`dict`): `num_inference_steps`, `time_grid` and `sway_coefficient` of its [`DTMScheduler`].
        backbone_name (`str`): name of the backbone it changes.
        backbone_revision (`str`, *optional*): revision of that.
        backbone_fingerprint (`str`, *optional*): [`F5Backbone.fingerprint`] of that.
        base_model (`str`, *optional*): Hub name of a pipeline with that backbone.
        base_model_revision (`str`, *optional*): revision of that.
        license (`str`, *optional*): inherited from the backbone.
        training_data (`str`, *optional*): for the model card.
        results (`dict`, *optional*): measured results `{arm: {metric: value}}`, for the model card.
    """

    rank: int
    alpha: float
    step_counts: list[int]
    sampler: dict
    backbone_name: str
    backbone_revision: str | None = None
    backbone_fingerprint: str | None = None
    base_model: str | None = None
    base_model_revision: str | None = None
    license: str | None = None
    training_data: str | None = None
    results: dict | None = None


@dataclass
class Student:
    """
    A student's change of a backbone.

    Args:
        config ([`StudentConfig`]): what it belongs to.
        tensors (`dict[str, torch.Tensor]`): `NAME.lora_A.weight` and `NAME.lora_B.weight` for the layers it changes,
            and `num_steps_embed.weight` if it serves several numbers of steps.
    """

    config: StudentConfig
    tensors: dict[str, torch.Tensor] = field(repr=False)

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write the two files of a student; each is complete or absent."""
        folder = Path(folder)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        with written_aside(folder / STUDENT_WEIGHTS) as aside:
            save_file(tensors, aside, metadata={"format": "pt"})
        with written_aside(folder / STUDENT_CONFIG) as aside:
            text = json.dumps(dataclasses.asdict(self.config), indent=2, sort_keys=True)
            aside.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, **hub) -> "Student":
        """
        Load a student from a folder or from the Hub.

        Args:
            name (`str` or `os.PathLike`): folder or Hub name.
            hub: `revision`, `cache_dir`, `token`, `local_files_only` as in `hf_hub_download`.

        Raises:
            ValueError: if there is none.
        """
        config = student_config(name, **hub)
        if config is None:
            raise ValueError(f"{str(name)!r} must hold a student ({STUDENT_CONFIG}), but has none.")
        return cls(config, load_file(_file(name, STUDENT_WEIGHTS, hub)))

    def merge_into(self, backbone: F5Backbone, force: bool = False) -> F5Backbone:
        """
        A backbone with the student's weights; `backbone` stays as it is.

        Args:
            backbone ([`F5Backbone`]): the one that the student was distilled from.
            force (`bool`, defaults to `False`): take another one with the same layers.

        Raises:
            ValueError: if it is another backbone, or has no such layers.
        """
        config, base = self.config, backbone.config
        if not force and config.backbone_fingerprint not in (None, backbone.fingerprint):
            raise ValueError(
                f"The student was distilled from backbone {config.backbone_name!r} (revision "
                f"{config.backbone_revision}, fingerprint {config.backbone_fingerprint}), but `backbone` is "
                f"{base.name!r} (revision {base.revision}, fingerprint {backbone.fingerprint})."
            )
        weights = dict(backbone.state_dict())
        add_low_rank(weights, self.tensors, config.alpha / config.rank)
        return build_student(backbone, weights, config.step_counts, self.tensors.get(f"{NUM_STEPS_EMBED}.weight"))


def build_student(
    backbone: F5Backbone,
    weights: Mapping[str, torch.Tensor],
    step_counts: list[int],
    num_steps_embed: torch.Tensor | None,
) -> F5Backbone:
    """
    A backbone of the size of `backbone` with a student's weights.

    Args:
        backbone ([`F5Backbone`]): gives configuration, dtype and device.
        weights (`dict[str, torch.Tensor]`): by the names of a backbone.
        step_counts (`list[int]`): numbers of steps it serves.
        num_steps_embed (`torch.Tensor` of shape `(4, D)`, *optional*): what tells it the number, if it is told.
    """
    student = F5Backbone.from_config(dict(backbone.config), step_counts=list(step_counts), revision=None)
    student.to(backbone.device, backbone.dtype)
    weights = dict(weights)
    if num_steps_embed is not None:
        weights[f"{NUM_STEPS_EMBED}.weight"] = num_steps_embed
    student.load_state_dict(weights)
    return student.freeze()


def student_config(name: str | os.PathLike, **hub) -> StudentConfig | None:
    """
    Configuration of the student if a folder or repository holds one, else `None`.

    Args:
        name (`str` or `os.PathLike`): folder or Hub name.
        hub: `revision`, `cache_dir`, `token`, `local_files_only` as in `hf_hub_download`.
    """
    try:
        path = _file(name, STUDENT_CONFIG, hub)
    except (EntryNotFoundError, HfHubHTTPError, OSError, ValueError):
        return None
    return StudentConfig(**json.loads(Path(path).read_text(encoding="utf-8")))


def _file(name: str | os.PathLike, file: str, hub: dict) -> str:
    if os.path.isdir(name):
        path = os.path.join(name, file)
        if not os.path.isfile(path):
            raise FileNotFoundError(path)
        return path
    kept = {key: hub.get(key) for key in ("revision", "cache_dir", "token") if hub.get(key) is not None}
    return hf_hub_download(str(name), file, local_files_only=bool(hub.get("local_files_only", False)), **kept)
