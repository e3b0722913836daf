"""The sections of the objectives that train on speech, and what a run of each cannot be told."""

from dataclasses import dataclass

from dtm_hf.scheduling.solvers import HEAD_SOLVERS, effective_solver
from dtm_hf.training.config.arguments import TrainingConfig
from dtm_hf.training.config.fields import option
from dtm_hf.training.objectives.arguments import (
    ConditioningArguments,
    DTMArguments,
    TDMSpeechArguments,
    check_conditioning,
    check_dtm,
    check_tdm,
)


@dataclass
class BackboneArguments(ConditioningArguments):
    """flow_matching: a backbone from scratch."""

    backbone_dim: int = option(192, "Width of the DiT.", above=0)
    backbone_depth: int = option(6, "Blocks of the DiT.", above=0)
    backbone_heads: int = option(3, "Attention heads.", above=0)
    backbone_ff_mult: int = option(2, "Feed-forward expansion.", above=0)
    backbone_text_dim: int = option(128, "Width of the text embedding.", above=0)
    backbone_conv_layers: int = option(2, "ConvNeXt blocks of the text encoder.", at_least=0)
    backbone_dropout: float = option(0.0, "Dropout of the blocks.", at_least=0, at_most=1)
    average_upsampling: bool = option(True, "Spread the text evenly over the frames.")
    text_aligner: str | None = option(
        None, "Folder or Hub name of the `TextAligner` that times recordings; a backbone is then told."
    )
    token_durations: str | None = option(
        None, "Folder or Hub name of the `TokenDurations` that say so where there is no recording; saved with it."
    )
    backbone_name: str = option("dtm-f5-tiny", "Name recorded in the backbone.")
    license: str = option("mit", "Licence of the trained weights.")


@dataclass
class AlignmentArguments:
    """alignment: an aligner of text and recordings."""

    aligner_hidden_size: int = option(192, "Width of the convolutions.", above=0)
    aligner_embedding_size: int = option(64, "Width of the space that text and frames meet in.", above=0)


@dataclass
class DurationsArguments:
    """durations: a network that says how long each character of a text is to last."""

    text_aligner: str | None = option(
        None, "Folder or Hub name of the `TextAligner` that times recordings; a backbone is then told."
    )
    durations_hidden_size: int = option(160, "Width of the network.", above=0)
    durations_num_layers: int = option(6, "Convolutions of the network.", above=0)


@dataclass
class _GridArguments:
    time_grid: str = option(
        "sway",
        "Global grid of the saved scheduler, and of a student's steps.",
        choices=("sway", "uniform", "epss"),
    )


@dataclass
class HeadArguments(_GridArguments, DTMArguments):
    """dtm: a head on a frozen backbone, and the scheduler that is saved with it."""

    head_hidden_size: int = option(512, "Width of the head.", above=0)
    head_num_layers: int = option(6, "Blocks of the head.", above=0)
    head_architecture: str = option(
        "mlp", "`mlp`, `conv` or, for `guidance`, `transformer`.", choices=("mlp", "conv", "transformer")
    )
    head_prediction: str = option(
        "residual",
        "`residual`, `direct`, or `guidance`: what guidance adds, learnt on the head's own states.",
        choices=("residual", "direct", "guidance"),
    )
    head_residual_layers: int = option(
        0,
        "Of `guidance`: the residual stream before so many last blocks is read too; as many first blocks are copied "
        "for `transformer`, in the place of `head_hidden_size` and `head_num_layers`.",
        at_least=0,
    )
    head_conv_kernel_size: int = option(7, "Frames a temporal convolution sees.")
    num_inference_steps: int = option(8, "Global steps T of the saved scheduler, and of `t_sampling: grid`.", above=0)
    num_head_steps: int = option(2, "Head calls of the saved scheduler.", at_least=0)
    head_solver: str = option("midpoint", "Head solver of the saved scheduler.", choices=HEAD_SOLVERS)


@dataclass
class StudentArguments(_GridArguments, TDMSpeechArguments):
    """tdm: a student of 1-4 steps of a frozen backbone."""


@dataclass
class HeadStudentArguments(_GridArguments, TDMSpeechArguments):
    """tdm_head: the same with a frozen backbone and the head of `init_from` as the student."""

    head_end: float | None = option(
        None,
        "Time from which on the head is left out; by default that of `init_from`.",
        above=0,
        at_most=1,
    )


def check_backbone(config: TrainingConfig) -> None:
    """
    Raises:
        ValueError: for a backbone that cannot be trained so.
    """
    check_conditioning(config.objective)
    if config.objective.t_sampling == "grid":
        raise ValueError("`t_sampling` must be a distribution over [0, 1) for flow_matching, but got 'grid'.")


def check_alignment(config: TrainingConfig) -> None:
    """Any aligner can be trained."""


def check_durations(config: TrainingConfig) -> None:
    """
    Raises:
        ValueError: without an aligner.
    """
    if config.objective.text_aligner is None:
        raise ValueError("`text_aligner` must be the folder or Hub name of a `TextAligner`, but got none.")


def check_head(config: TrainingConfig) -> None:
    """
    Raises:
        ValueError: for a head that cannot be trained so.
    """
    arguments: HeadArguments = config.objective
    check_dtm(arguments)
    if not 0 <= arguments.t_min < arguments.num_inference_steps:
        raise ValueError(
            f"`t_min` must lie in [0, num_inference_steps), but got {arguments.t_min} "
            f"of {arguments.num_inference_steps}."
        )
    effective_solver(arguments.head_solver, arguments.num_head_steps)
    _check_base(config)
    if arguments.head_prediction == "guidance":
        _check_guidance_head(config)
    elif arguments.head_architecture == "transformer" or arguments.head_residual_layers:
        raise ValueError(
            "`head_architecture` 'transformer' and `head_residual_layers` are for a `head_prediction` of 'guidance', "
            f"but got {arguments.head_prediction!r}."
        )


def _check_guidance_head(config: TrainingConfig) -> None:
    from dtm_hf.scheduling.time_grids import time_grid

    arguments: HeadArguments = config.objective
    if arguments.baked_guidance_range is None:
        raise ValueError("`baked_guidance_range` must be given for a `head_prediction` of 'guidance', but got none.")
    if arguments.num_head_steps != 1:
        raise ValueError(
            "`num_head_steps` must be 1 for a `head_prediction` of 'guidance', which draws nothing, but got "
            f"{arguments.num_head_steps}."
        )
    for count in arguments.policy_step_counts or [0]:
        # The first step is walked in closed form.
        learnt = [] if count < 1 else time_grid(arguments.time_grid, count)[1:-1].tolist()
        if not any(t < arguments.baked_guidance_end for t in learnt):
            raise ValueError(
                "`policy_step_counts` must be numbers of steps of which one starts after t = 0 and before "
                f"`baked_guidance_end`, {arguments.baked_guidance_end}, but got {arguments.policy_step_counts}."
            )
    if arguments.head_architecture == "transformer" and not arguments.head_residual_layers:
        raise ValueError("`head_residual_layers` must be above 0 for `head_architecture` 'transformer', but got 0.")
    if config.optimization.torch_compile:
        raise ValueError(
            "`torch_compile` must be off for a `head_prediction` of 'guidance', but got True: the residual stream is "
            "read between the blocks of the backbone."
        )


def check_student(config: TrainingConfig) -> None:
    """
    Raises:
        ValueError: for a student that cannot be trained so.
    """
    check_conditioning(config.objective)
    _check_base(config)
    if config.objective.time_grid == "epss":
        raise ValueError("`time_grid` must be 'sway' or 'uniform' for a student: 'epss' has no grids of 1 to 4 steps.")
    check_tdm(config)
    arguments: StudentArguments = config.objective
    if not arguments.imitates:
        return
    if arguments.imitation_end >= 1:
        raise ValueError(f"`imitation_end` must be below 1, but got {arguments.imitation_end}.")
    if len(arguments.step_counts) > 1 or arguments.full_parameters or arguments.teacher_guidance_scale <= 1:
        raise ValueError(
            "`imitates` is for adapters, one number of `step_counts` and a `teacher_guidance_scale` above 1, but got "
            f"`full_parameters` {arguments.full_parameters}, {arguments.step_counts} and "
            f"{arguments.teacher_guidance_scale}."
        )


def check_head_student(config: TrainingConfig) -> None:
    """
    Raises:
        ValueError: for a head that cannot be distilled so.
    """
    check_conditioning(config.objective)
    _check_base(config)
    arguments: HeadStudentArguments = config.objective
    if config.model.init_from is None:
        raise ValueError(
            "`init_from` must be the head to begin with, of the objective dtm with `head_prediction` 'guidance', but "
            "got none."
        )
    for name in ("imitates", "full_parameters"):
        if getattr(arguments, name):
            raise ValueError(f"`{name}` is for the objective tdm, but the objective is tdm_head.")
    if arguments.time_grid == "epss":
        raise ValueError("`time_grid` must be 'sway' or 'uniform' for tdm_head: 'epss' has no grids of 1 to 4 steps.")
    check_tdm(config)


def _check_base(config: TrainingConfig) -> None:
    model = config.model
    if (model.base_model is None) == (model.f5_checkpoint is None):
        raise ValueError(f"The {model.objective} objective needs exactly one of `base_model` and `f5_checkpoint`.")
