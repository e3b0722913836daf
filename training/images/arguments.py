"""The section of the distillation of pictures, and what a run cannot be told."""

from dataclasses import dataclass

from dtm_hf.training.config.arguments import TrainingConfig
from dtm_hf.training.config.fields import option
from dtm_hf.training.objectives.arguments import TDMArguments, check_tdm


@dataclass
class ImageArguments(TDMArguments):
    """tdm_image: a student of 1-4 steps of a text-to-image pipeline of diffusers."""

    resolution: int = option(1024, "Height and width of the pictures in pixels.", above=0)
    images_per_batch: int = option(1, "Prompts of a batch on one device.", above=0)
    image_column: str | None = option(
        None,
        "Column with pictures of the validation split, to compare samples with; by default the teacher draws them.",
    )
    embedded_guidance_scale: float = option(
        3.5, "What a network with a guidance embedding (FLUX.1-dev) is told, here and when it is used.", at_least=0
    )
    max_sequence_length: int = option(512, "Tokens of a T5 text encoder, here and when it is used.", above=0)
    grid_shift: float | None = option(
        None, "Shift of a flow's grid of steps; by default the scheduler's at this resolution.", above=0
    )
    teacher_steps: int = option(32, "Steps of the teacher's pictures.", above=0)
    save_merged: bool = option(False, "Save whole pipelines in place of a LoRA.")


def check_images(config: TrainingConfig) -> None:
    """
    Raises:
        ValueError: for a student that cannot be trained so.
    """
    check_tdm(config)
    model, arguments = config.model, config.objective
    if model.base_model is None:
        raise ValueError("`base_model` must name a text-to-image pipeline of diffusers for tdm_image, but got none.")
    if arguments.teacher_guidance_end != 1:
        raise ValueError(
            f"`teacher_guidance_end` must be 1.0 for tdm_image, but got {arguments.teacher_guidance_end}: what time "
            "is late differs between schedules."
        )
    if model.init_from is not None and arguments.full_parameters:
        raise ValueError(
            f"`init_from` must be none with `full_parameters` for tdm_image, but got {model.init_from!r}: a LoRA "
            "is what it takes up. Give a whole pipeline as `base_model`."
        )
