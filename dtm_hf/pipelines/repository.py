"""What all pipelines here share: how a folder or a repository is read, saved and pushed."""

import inspect
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from diffusers.configuration_utils import FrozenDict
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from dtm_hf.hub import fill_card, push_with_card
from dtm_hf.pipelines.checks import check_index
from dtm_hf.reading import read_json
from dtm_hf.validation import naming

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline


def _dtype(argument: str, name: str) -> torch.dtype:
    dtype = getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"`{argument}` must be a floating-point type of torch, such as 'float16', but got {name!r}.")
    return dtype


class PublishedMixin:
    """
    Loading, saving and pushing of a pipeline that has `card_template` and `card_values`, as
    [`~dtm_hf.hub.Publishable`] has them.

    Attributes:
        component_classes (mapping of `str` to `list[str]`): the classes of dtm-hf that each component may be of.
        required_components (`list[str]`): what each saved pipeline has.
    """

    component_classes: ClassVar[Mapping[str, Sequence[str]]]
    required_components: ClassVar[Sequence[str]]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> Self:
        """Load a pipeline as `DiffusionPipeline.from_pretrained` does; of weights, safetensors alone are read."""
        return cls._load(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def _load(cls, name: str | os.PathLike, **kwargs) -> Self:
        for argument in ("dtype", "torch_dtype"):
            # diffusers would take float32 in the place of what it does not know.
            if isinstance(kwargs.get(argument), str):
                kwargs[argument] = _dtype(argument, kwargs[argument])
        with naming(name, kwargs.get("cache_dir")):
            return super().from_pretrained(name, **{"use_safetensors": True} | kwargs)

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike) -> dict[str, Any]:
        content = read_json(json_file)
        check_index(content, json_file, cls.component_classes, cls.required_components)
        return content

    @classmethod
    def download(cls, pretrained_model_name: str | os.PathLike, **kwargs) -> str:
        """As in diffusers, but of a port every file: diffusers would pass over its graphs."""
        names = ("revision", "cache_dir", "token", "local_files_only")
        hub = {name: kwargs[name] for name in names if kwargs.get(name) is not None}
        try:
            index = read_json(hf_hub_download(str(pretrained_model_name), "model_index.json", **hub))
        except (HfHubHTTPError, ValueError, OSError):
            # What there is to say of it diffusers says.
            return super().download(pretrained_model_name, **kwargs)
        if any(isinstance(value, list) and str(value[-1]).startswith("Ported") for value in index.values()):
            return snapshot_download(str(pretrained_model_name), **hub)
        return super().download(pretrained_model_name, **kwargs)

    @classmethod
    def from_pipe(cls, pipeline: "DiffusionPipeline", **kwargs) -> Self:
        """As in diffusers, but any component is handed on that is not replaced, whatever its class."""
        # diffusers leaves out models whose class is not the very one of the signature: a subclass, a user's vocoder.
        names = inspect.signature(cls.__init__).parameters
        components = {name: part for name, part in pipeline.components.items() if name in names}
        return super().from_pipe(pipeline, **components | kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """Save all components and a filled model card. Only safetensors are written."""
        if kwargs.get("safe_serialization", True) is not True:
            raise ValueError("`safe_serialization` must be True: dtm-hf writes safetensors alone.")
        for component in (self, *self.components.values()):
            # diffusers writes where a component was loaded from; a folder of this machine is nobody else's business.
            config = getattr(component, "config", None)
            if isinstance(config, FrozenDict) and os.path.exists(config.get("_name_or_path") or ""):
                component.register_to_config(_name_or_path="")
        super().save_pretrained(save_directory, **kwargs)
        fill_card(self, kwargs.get("repo_id")).save(os.path.join(save_directory, "README.md"))

    def push_to_hub(self, repo_id: str, **kwargs) -> str:
        """Upload the pipeline with a filled model card; arguments as in diffusers."""
        return push_with_card(self, repo_id, **kwargs)
