"""
A distilled student as it is kept on disk beside its base: the low-rank change of the weights, a few MB, and what it
changes. Reading it needs no peft.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import nn
from transformers.utils.hub import cached_file

from dtm_hf.files import written_aside
from dtm_hf.hub import push_with_card
from dtm_hf.provenance import CARD_TEMPLATE, Provenance
from dtm_hf.reading import read_json
from dtm_hf.validation import Share, Width, check_values
from dtm_hf.weights import read_weights

from .backbone_f5 import F5Backbone
from .fingerprint import other_backbone
from .low_rank import MAX_STEPS, NUM_STEPS_EMBED, add_low_rank

MODEL_TYPE = "tdm_student"
STUDENT_CONFIG = "config.json"
STUDENT_WEIGHTS = "student.safetensors"


@dataclass
class StudentConfig(Provenance):
    """
    What a student is a student of, and how it is sampled.

    Args:
        rank (`int`): of the change of each matrix.
        alpha (`float`): the change is alpha / rank times the product of its factors.
        step_counts (`list[int]`): numbers of steps it serves.
        sampler (`dict`): `num_inference_steps`, `time_grid` and `sway_coefficient` of its [`DTMScheduler`].
        adapted_until (`float`, *optional*): time t from which on it is its teacher to the bit; by default nowhere.
        backbone_name, backbone_revision, backbone_fingerprint, backbone_sketch, base_model, base_model_revision,
        license, training_data, results: as in [`~dtm_hf.provenance.Provenance`].
    """

    rank: Width
    alpha: Annotated[float, Field(gt=0, le=1e6)]
    step_counts: Annotated[list[Annotated[int, Field(ge=1, le=MAX_STEPS)]], Field(min_length=1)]
    sampler: dict
    adapted_until: Share | None = None

    @classmethod
    def from_file(cls, path: str | os.PathLike) -> "StudentConfig":
        """
        From a `config.json`; entries of later versions are passed over.

        Raises:
            ValueError: if it is not that of a student, or an entry is of another type or out of its bounds.
        """
        content = read_json(path)
        if content.get("model_type") != MODEL_TYPE:
            raise ValueError(f"{os.fspath(path)!r} describes no student's adapters.")
        check_values(content, cls, repr(os.fspath(path)))
        known = {entry.name for entry in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in content.items() if name in known})


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

    card_template: ClassVar[Path] = CARD_TEMPLATE

    def save_pretrained(self, folder: str | os.PathLike, **kwargs) -> None:
        """Write the two files of a student; each is complete or absent. `kwargs` of other models are passed over."""
        folder = Path(folder)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        with written_aside(folder / STUDENT_WEIGHTS) as aside:
            save_file(tensors, aside, metadata={"format": "pt"})
        with written_aside(folder / STUDENT_CONFIG) as aside:
            content = {"model_type": MODEL_TYPE} | dataclasses.asdict(self.config)
            text = json.dumps(content, indent=2, sort_keys=True)
            aside.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, **hub) -> "Student":
        """
        Load a student from a folder or from the Hub.

        Args:
            name (`str` or `os.PathLike`): folder or Hub name.
            hub: `revision`, `cache_dir`, `token`, `local_files_only` as in `transformers.utils.cached_file`.

        Raises:
            ValueError: if there is none.
            OSError: if there is no such repository or revision, or its weights are missing.
        """
        file = cached_file(name, STUDENT_CONFIG, _raise_exceptions_for_missing_entries=False, **hub)
        if file is None or read_json(file).get("model_type") != MODEL_TYPE:
            raise ValueError(f"{str(name)!r} must hold a student's adapters, but its config.json describes none.")
        return cls(StudentConfig.from_file(file), read_weights(cached_file(name, STUDENT_WEIGHTS, **hub)))

    def push_to_hub(self, repo_id: str, **kwargs) -> str:
        """Upload the adapters alone, with a filled model card that names their base; arguments as of a head."""
        return push_with_card(self, repo_id, **kwargs)

    def card_values(self) -> dict[str, Any]:
        """What the model card of a student's adapters says: see [`~dtm_hf.hub.Publishable`]."""
        config = self.config
        return config.provenance_values() | {
            "step_counts": config.step_counts,
            "adapter_parameters": f"{sum(tensor.numel() for tensor in self.tensors.values()):,}",
            "rank": config.rank,
            "sampler": config.sampler,
        }

    def merge_into(self, backbone: F5Backbone, force: bool = False) -> F5Backbone:
        """
        A backbone with the student's weights; `backbone` stays as it is.

        Args:
            backbone ([`F5Backbone`]): the one that the student was distilled from.
            force (`bool`, defaults to `False`): take another one with the same layers.

        Raises:
            ValueError: if it is another backbone, or has no such layers.
        """
        config = self.config
        if not force and (other := other_backbone(config, backbone)):
            raise ValueError(f"The student was distilled from {other}")
        steps = self.tensors.get(f"{NUM_STEPS_EMBED}.weight")
        if (steps is not None) != (len(config.step_counts) > 1):
            raise ValueError(
                f"`step_counts` of the student are {config.step_counts}, but its weights are those of "
                f"{'one number' if steps is None else 'several numbers'} of steps."
            )
        weights = dict(backbone.state_dict())
        add_low_rank(weights, self.tensors, config.alpha / config.rank)
        student = empty_student(backbone, config.step_counts, config.adapted_until)
        load_student_weights(student, weights, steps, backbone.state_dict())
        student.register_to_config(training_data=config.training_data)
        return student


def empty_student(backbone: F5Backbone, step_counts: Sequence[int], adapted_until: float | None = None) -> F5Backbone:
    """A backbone of the size, dtype and device of another, with new weights, that is a student of `step_counts`."""
    config = dict(backbone.config) | {"name": f"{backbone.config.name}-student", "revision": None}
    own = {"step_counts": list(step_counts), "adapted_until": adapted_until}
    student = F5Backbone.from_config(config, **own).to(backbone.device)
    # Not diffusers' own `to`, which warns of any type that is named.
    return nn.Module.to(student, backbone.dtype)


def load_student_weights(
    student: F5Backbone,
    weights: Mapping[str, torch.Tensor],
    num_steps_embed: torch.Tensor | None,
    teacher: Mapping[str, torch.Tensor],
) -> None:
    """
    Args:
        student ([`F5Backbone`]): gets the weights.
        weights (`dict[str, torch.Tensor]`): of a backbone without `step_counts`.
        num_steps_embed (`torch.Tensor` of shape `(4, D)`, *optional*): what tells a student of several numbers of
            steps which it is to take.
        teacher (`dict[str, torch.Tensor]`): of the backbone that it is a student of, by the same names; what a
            student near the noise alone is from its `adapted_until` on.
    """
    if student.early is not None:
        weights = dict(teacher) | {name.replace("dit.", "early.", 1): tensor for name, tensor in weights.items()}
    embed = {} if num_steps_embed is None else {f"{NUM_STEPS_EMBED}.weight": num_steps_embed.detach()}
    student.load_state_dict(dict(weights) | embed)
