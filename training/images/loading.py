"""Finds out what a pipeline is before its weights are read, and loads it."""

from pathlib import Path

import torch

from dtm_hf.training.images.families import FAMILIES
from dtm_hf.training.images.models import ImageModel
from dtm_hf.training.objectives.prediction import prediction_for


def load_image_model(
    name: str,
    resolution: int,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    **options,
) -> ImageModel:
    """
    Load a text-to-image pipeline of diffusers, on the CPU.

    Args:
        name (`str`): folder or Hub name.
        resolution (`int`): height and width of the pictures in pixels.
        revision (`str`, *optional*): on the Hub.
        dtype (`torch.dtype`, defaults to `torch.float32`): of denoiser and text encoders; the VAE stays in float32.
        options: keyword arguments of [`ImageModel`].

    Raises:
        ValueError: for what is no such pipeline, for one without a text encoder, a tokenizer or a VAE, and for a
            scheduler or a prediction type that is not supported: all before any weights are read.
    """
    index = _index(name, revision)
    family = _family(name, index)
    _check_parts(name, index, family)
    _check_scheduler(name, revision, index, family)
    import diffusers

    # Not by a conversion afterwards, which would keep what rounding has lost.
    dtypes = {"default": dtype, "vae": torch.float32}
    try:
        pipeline = getattr(diffusers, family.pipeline_class).from_pretrained(
            name, revision=revision, dtype=dtypes, use_safetensors=True
        )
    except OSError as error:
        raise ValueError(f"`base_model` {name!r} cannot be loaded: {error}") from error
    return family(pipeline, resolution, **options)


def _index(name: str, revision: str | None) -> dict:
    from diffusers import DiffusionPipeline

    try:
        return DiffusionPipeline.load_config(name, revision=revision)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`base_model` must be a folder or a Hub name of a diffusers pipeline, but got {name!r}: {error}"
        ) from error


def _family(name: str, index: dict) -> type[ImageModel]:
    kind = index.get("_class_name")
    if kind not in FAMILIES:
        raise ValueError(f"`base_model` must be one of {tuple(FAMILIES)}, but {name!r} is a {kind}.")
    return FAMILIES[kind]


def _check_parts(name: str, index: dict, family: type[ImageModel]) -> None:
    for part in (*family.parts, "scheduler"):
        absent = (index.get(part) or [None])[0] is None
        if absent or Path(name).is_dir() and not (Path(name) / part).is_dir():
            where = "its model_index.json names none" if absent else "the folder of that name is absent"
            raise ValueError(f"`base_model` {name!r} must have a `{part}`, but {where}.")


def _check_scheduler(name: str, revision: str | None, index: dict, family: type[ImageModel]) -> None:
    import diffusers

    kind = index["scheduler"][1]
    scheduler_class = getattr(diffusers, kind, None)
    if scheduler_class is None:
        raise ValueError(f"The scheduler of `base_model` {name!r} must be one of diffusers', but got {kind}.")
    scheduler = scheduler_class.from_pretrained(name, revision=revision, subfolder="scheduler")
    if not isinstance(prediction_for(scheduler), family.prediction_class):
        wanted = "a schedule of betas" if family.denoiser_name == "unet" else "`FlowMatchEulerDiscreteScheduler`"
        raise ValueError(f"The scheduler of `base_model` {name!r} must be {wanted}, but got {kind}.")
