"""How a [`DTMPipeline`] is loaded, also from a head or a student's adapters alone, and what its card says."""

import os
from typing import Any, Self

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, RevisionNotFoundError

from dtm_hf.backbone.student import MODEL_TYPE, Student, StudentConfig
from dtm_hf.frontend.duration_prediction import describe_lengths
from dtm_hf.frontend.text_normalizer import describe_normalizer
from dtm_hf.head.configuration_dtm import DTMHeadConfig
from dtm_hf.head.modeling_dtm import DTMHead
from dtm_hf.pipelines.checks import COMPONENT_CLASSES, REQUIRED_COMPONENTS, make_scheduler
from dtm_hf.pipelines.repository import PublishedMixin
from dtm_hf.provenance import CARD, CARD_TEMPLATE
from dtm_hf.reading import read_json
from dtm_hf.validation import naming

_PIPELINE_FILE = "model_index.json"
_CONFIG_FILE = "config.json"


def head_only_config(name: str | os.PathLike, **kwargs) -> DTMHeadConfig | None:
    """
    Configuration of the head if a folder or repository holds a head and no pipeline, else `None`; arguments as of
    [`partial_config`].
    """
    config = partial_config(name, **kwargs)
    return config if isinstance(config, DTMHeadConfig) else None


def partial_config(name: str | os.PathLike, **kwargs) -> DTMHeadConfig | StudentConfig | None:
    """
    Configuration of what a folder or repository holds if that is a head or a student's adapters alone; `None` for a
    whole pipeline, and for anything else.

    Args:
        name (`str` or `os.PathLike`): Folder or Hub name.
        kwargs: `revision`, `cache_dir`, `token`, `local_files_only` as in `hf_hub_download`.
    """
    if os.path.isdir(name):
        if os.path.isfile(os.path.join(name, _PIPELINE_FILE)):
            return None
        path = os.path.join(name, _CONFIG_FILE)
        if not os.path.isfile(path):
            return None
    else:
        hub = {key: kwargs.get(key) for key in ("revision", "cache_dir", "token") if kwargs.get(key) is not None}
        hub["local_files_only"] = bool(kwargs.get("local_files_only", False))
        # Not `transformers.utils.cached_file`, which makes one OSError of the cases that are told apart here.
        try:
            hf_hub_download(str(name), _PIPELINE_FILE, **hub)
            return None
        except (EntryNotFoundError, LocalEntryNotFoundError):
            pass
        except RevisionNotFoundError:
            # diffusers would call this a model that is not fully cached.
            raise
        except (HfHubHTTPError, ValueError, OSError):
            # A missing repository, no connection, a name that is none: diffusers says it best.
            return None
        try:
            path = hf_hub_download(str(name), _CONFIG_FILE, **hub)
        except (EntryNotFoundError, LocalEntryNotFoundError):
            return None
    with naming(path):
        kind = read_json(path).get("model_type")
        if kind == MODEL_TYPE:
            return StudentConfig.from_file(path)
        return DTMHeadConfig.from_json_file(path) if kind == DTMHeadConfig.model_type else None


def load_parts(
    name: str | os.PathLike, config: DTMHeadConfig | StudentConfig, **kwargs
) -> tuple[str, dict[str, Any], Student | None]:
    """
    Load what a folder or repository without a pipeline holds.

    Args:
        name (`str` or `os.PathLike`): Folder or Hub name.
        config ([`DTMHeadConfig`] or [`StudentConfig`]): result of [`partial_config`].
        kwargs: as of `DTMPipeline.from_pretrained`.

    Returns:
        The base model to load in its place; the arguments to load that with, the head and the scheduler it was trained
        for among them; and the student to put into it, if it is one.

    Raises:
        ValueError: if the configuration names no base model.
    """
    is_student = isinstance(config, StudentConfig)
    if config.base_model is None:
        alone, load = (
            ("a student's adapters", "`DTMPipeline.load_student`")
            if is_student
            else ("a head", "`DTMHead.from_pretrained`")
        )
        raise ValueError(
            f"{str(name)!r} holds {alone} alone and its configuration names no `base_model`; load it with {load} and "
            "give it to the pipeline of its backbone."
        )
    hub_names = ("cache_dir", "force_download", "local_files_only", "token", "proxies")
    hub = {key: kwargs[key] for key in hub_names if key in kwargs}
    hub["revision"] = kwargs.pop("revision", None) or "main"
    if config.base_model_revision is not None:
        kwargs["revision"] = config.base_model_revision
    check_base(name, config.base_model, **hub | {"revision": config.base_model_revision})
    if is_student:
        return config.base_model, kwargs, Student.from_pretrained(name, **hub)
    dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
    head = DTMHead.from_pretrained(name, **hub, **({"dtype": dtype} if isinstance(dtype, torch.dtype) else {}))
    if config.sampler is not None:
        kwargs.setdefault("scheduler", make_scheduler(config.sampler, name))
    return config.base_model, kwargs | {"head": head}, None


def check_base(name: str | os.PathLike, base_model: str, **hub) -> None:
    """
    Raises:
        ValueError: if the base model of a head or a student is such a one itself, perhaps the very same.
    """
    if partial_config(base_model, **hub) is not None:
        raise ValueError(
            f"{str(name)!r} names {base_model!r} as its `base_model`, which must be a whole pipeline, but holds a "
            "part of one alone."
        )


class RepositoryMixin(PublishedMixin):
    """Loading, saving and pushing of [`DTMPipeline`]."""

    card_template = CARD_TEMPLATE
    component_classes = COMPONENT_CLASSES
    required_components = REQUIRED_COMPONENTS

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> Self:
        """
        Load a pipeline as `DiffusionPipeline.from_pretrained` does. A repository with nothing but a head, or nothing
        but the adapters of a student, is accepted too: the other components come from the base model that its
        configuration names, the scheduler from its `sampler`. So does that of a `head` that is given as an argument,
        if no `scheduler` is: that of its base may not run it at all.
        """
        sampler = getattr(getattr(kwargs.get("head"), "config", None), "sampler", None)
        if sampler is not None:
            kwargs.setdefault("scheduler", make_scheduler(sampler, "head"))
        config = partial_config(pretrained_model_name_or_path, **kwargs)
        if config is None:
            return cls._load(pretrained_model_name_or_path, **kwargs)
        base, kwargs, student = load_parts(pretrained_model_name_or_path, config, **kwargs)
        pipeline = cls._load(base, **kwargs)
        return pipeline if student is None else pipeline.load_student(student)

    def load_student(self, student: "Student | str | os.PathLike", force: bool = False, **hub) -> Self:
        """
        Put a distilled student in the place of the backbone, and its grid in that of the scheduler; a head goes.

        Args:
            student ([`Student`], `str` or `os.PathLike`): The adapters, or the folder or Hub name that holds them.
            force (`bool`, defaults to `False`): Take a student of another backbone with the same layers.
            hub: `revision`, `cache_dir`, `token`, `local_files_only` as in `hf_hub_download`.

        Returns:
            This pipeline.

        Raises:
            ValueError: if there is no student, or it was distilled from another backbone and `force` is not set.
        """
        name = "the student" if isinstance(student, Student) else student
        with naming(name, hub.get("cache_dir")):
            student = student if isinstance(student, Student) else Student.from_pretrained(student, **hub)
            backbone = student.merge_into(self.backbone, force)
        self.register_modules(
            backbone=backbone,
            scheduler=make_scheduler({"num_head_steps": 0} | student.config.sampler, "student"),
            head=None,
        )
        return self

    def card_values(self) -> dict[str, Any]:
        """What the model card says: see [`~dtm_hf.hub.Publishable`]."""
        config = self.backbone.config
        values = {} if self.head is None else self.head.card_values()
        return (
            CARD
            | values
            | {
                "license": config.license,
                "backbone_name": config.name,
                "backbone_revision": config.revision,
                "fingerprint": self.backbone.fingerprint,
                "step_counts": config.step_counts,
                "sampler": dict(self.scheduler.config),
                "lengths": describe_lengths(self.duration_predictor),
                "max_seconds": config.max_seconds,
                "words": sorted(self.tokenizer.words or ()),
                "normalizer": describe_normalizer(self.text_normalizer),
                "training_data": values.get("training_data") or config.training_data,
            }
        )
