"""What the objectives are told: one section each, made of what several have in common."""

from dataclasses import dataclass

from dtm_hf.training.config.arguments import TrainingConfig
from dtm_hf.training.config.fields import option


@dataclass
class ConditioningArguments:
    """What every objective on speech draws for a batch: times, spans and dropped conditions."""

    t_sampling: str = option(
        "grid",
        "`grid` (times of the scheduler), `uniform`, `sway`, `sway_twice` (dense near 0) or `logit_normal`.",
        choices=("grid", "uniform", "sway", "sway_twice", "logit_normal"),
    )
    t_logit_mean: float = option(0.0, "Mean of the logit of t, for `logit_normal`.")
    audio_drop_prob: float = option(0.3, "Share of samples without the audio condition.", at_least=0, at_most=1)
    cond_drop_prob: float = option(0.2, "Share of samples without audio and text condition.", at_least=0, at_most=1)
    frac_lengths_mask: list[float] = option([0.7, 1.0], "Bounds of the share of frames to predict.")
    prompt_loss: bool = option(
        True,
        "Whether the frames that the audio condition shows enter the loss too. F5-TTS leaves them out, but its "
        "sampler denoises them all the same.",
    )
    pair_target_prob: float = option(
        0.5, "Share of the prompt+target pairs in which the target is predicted.", at_least=0, at_most=1
    )
    duration_jitter: float = option(
        0.0,
        "Of a backbone that is told when each token is spoken: the ends of tokens are moved by a normal deviate, "
        "whose standard deviation each row draws from 0 to so many frames.",
        at_least=0,
        at_most=100,
    )


@dataclass
class DTMArguments(ConditioningArguments):
    """Difference Transition Matching: what the head is trained to say."""

    t_min: int = option(0, "First grid index drawn. 1 reproduces the documents, but leaves t=0 untrained.")
    s_sampling: str = option(
        "uniform", "Inner times: `uniform` or `logit_normal`.", choices=("uniform", "logit_normal")
    )
    head_batch_multiplier: int = option(4, "Draws of (s, Y_0) per backbone pass.", above=0)
    mean_draw_prob: float = option(
        0.0,
        "Share of the draws at s = 0, whose target is the backbone's guided mean: what one head call gives.",
        at_least=0,
        at_most=1,
    )
    min_loss_remainder: float = option(0.1, "Lower bound of 1 - s in the loss weight.", above=0)
    baked_guidance_scale: float | None = option(
        None, "Guidance scale built into the targets; none for a head that is guided.", above=1
    )
    baked_guidance_range: list[float] | None = option(
        None, "Lowest and highest scale, for a head that follows any between; `baked_guidance_scale` by default."
    )
    baked_guidance_end: float = option(1.0, "Time t from which on no guidance is built in.", at_least=0, at_most=1)
    policy_step_counts: list[int] = option(
        [4], "Of a head that predicts guidance: numbers of steps of the walks that it is trained on, each as often."
    )
    policy_guided_share: float = option(
        0.25, "Share of these walks that follow guidance in the place of the head.", at_least=0, at_most=1
    )


@dataclass
class TDMArguments:
    """Trajectory distribution matching: a student and an estimator beside a frozen teacher."""

    lora_rank: int = option(16, "Rank of the adapters of student and estimator.", above=0)
    lora_alpha: float | None = option(None, "An adapter is scaled by alpha / rank; the rank by default.", above=0)
    full_parameters: bool = option(False, "Student and estimator are copies of the backbone, not adapters on it.")
    step_counts: list[int] = option([1, 2, 4], "Numbers of steps that the student serves, 1-4 each.")
    weight_type: str = option(
        "constant",
        "Weight of the student's loss by the noise level: `constant`, `snr` or `min_snr`.",
        choices=("constant", "snr", "min_snr"),
    )
    huber_scale: float = option(
        0.1,
        "Normalised difference from which on the student's loss grows linearly rather than as a square.",
        above=0,
    )
    update_estimator_every: int = option(1, "The estimator is updated in every so-many-th step.", above=0)
    estimator_updates: int = option(1, "Updates of the estimator in such a step, before that of the student.", above=0)
    estimator_learning_rate: float | None = option(
        None, "Peak learning rate of the estimator; the student's by default.", above=0
    )
    teacher_guidance_scale: float = option(
        3.0, "Guidance scale of the teacher, F5-TTS's cfg_strength + 1; 1 is no guidance.", at_least=1
    )
    teacher_guidance_end: float = option(1.0, "Time from which on the teacher is unguided.", at_least=0, at_most=1)
    imitates: bool = option(
        False,
        "In the place of matching distributions: the student's velocity is to be the guided teacher's on the "
        "student's own walk, in the steps before `imitation_end`; from there on it is its teacher, unguided.",
    )
    imitation_end: float = option(0.25, "Time from which on a student that imitates is its teacher.", above=0)


@dataclass
class TDMSpeechArguments(ConditioningArguments, TDMArguments):
    """[`TDMArguments`] of speech, whose batches are those of the other objectives."""


def check_conditioning(arguments: ConditioningArguments) -> None:
    """
    Raises:
        ValueError: for a span that cannot be.
    """
    bounds = arguments.frac_lengths_mask
    if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1] <= 1:
        raise ValueError(f"`frac_lengths_mask` must be two shares 0 < low <= high <= 1, but got {bounds}.")


def check_dtm(arguments: DTMArguments) -> None:
    """
    Raises:
        ValueError: for spans or guidance that cannot be.
    """
    check_conditioning(arguments)
    baked, bounds = arguments.baked_guidance_scale, arguments.baked_guidance_range
    if bounds is not None and (
        len(bounds) != 2 or baked is None or not (1 <= bounds[0] < bounds[1] and bounds[0] <= baked <= bounds[1])
    ):
        raise ValueError(
            "`baked_guidance_range` must be a lowest scale from 1 on and a highest one, with `baked_guidance_scale` "
            f"between, but got {bounds} and {baked}."
        )


def check_tdm(config: TrainingConfig) -> None:
    """
    Raises:
        ValueError: for a run whose `objective` section is a [`TDMArguments`] and cannot be trained so.
    """
    arguments: TDMArguments = config.objective
    counts = arguments.step_counts
    if not counts or len(set(counts)) < len(counts) or not all(1 <= count <= 4 for count in counts):
        raise ValueError(f"`step_counts` must be different numbers of steps from 1 to 4, but got {counts}.")
    if arguments.full_parameters and config.model.backbone_dtype != "float32":
        raise ValueError(
            f"`backbone_dtype` must be 'float32' with `full_parameters`, but got {config.model.backbone_dtype!r}: "
            "parameters in half precision lose small updates. Adapters are float32 on any backbone."
        )
    if config.optimization.optimizer == "muon" and not arguments.full_parameters:
        raise ValueError(
            "`optimizer` must be one of AdamW for adapters, but got 'muon', which is made for whole weight matrices."
        )
    if config.optimization.torch_compile:
        raise ValueError("`torch_compile` must be off for tdm, but got True: adapters are switched on and off.")
