"""One dataclass per section of a training configuration."""

from dataclasses import dataclass, field


def _option(default, text: str, **kwargs):
    metadata = {"help": text}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata, **kwargs)
    return field(default=default, metadata=metadata, **kwargs)


@dataclass
class ModelArguments:
    """What is trained, and the components around it."""

    objective: str = _option(
        "dtm",
        "`dtm` (a head on a frozen backbone), `flow_matching` (a backbone from scratch), `tdm` (a student of 1-4 "
        "steps of a frozen backbone) or `tdm_image` (one of a text-to-image pipeline of diffusers).",
    )
    base_model: str | None = _option(None, "Pipeline folder or Hub name that gives backbone, tokenizer and vocoder.")
    base_model_revision: str | None = _option(None, "Revision of `base_model`.")
    f5_checkpoint: str | None = _option(None, "Official F5-TTS checkpoint, in place of `base_model`.")
    f5_variant: str = _option("v1_base", "Variant of `f5_checkpoint`.")
    vocab_file: str | None = _option(None, "Vocabulary, one token a line; f5_tts's own by default.")
    init_from: str | None = _option(
        None,
        "What training starts from: a head (dtm), a pipeline (flow_matching; tdm with `full_parameters`) or a "
        "student's adapters (tdm).",
    )
    init_from_revision: str | None = _option(None, "Revision of `init_from`.")
    backbone_dtype: str = _option(
        "float32", "dtm, tdm: the frozen backbone in `float32` or `bfloat16`; it is saved so too."
    )
    backbone_dim: int = _option(192, "flow_matching: width of the DiT.")
    backbone_depth: int = _option(6, "flow_matching: blocks of the DiT.")
    backbone_heads: int = _option(3, "flow_matching: attention heads.")
    backbone_ff_mult: int = _option(2, "flow_matching: feed-forward expansion.")
    backbone_text_dim: int = _option(128, "flow_matching: width of the text embedding.")
    backbone_conv_layers: int = _option(2, "flow_matching: ConvNeXt blocks of the text encoder.")
    backbone_dropout: float = _option(0.0, "flow_matching: dropout of the blocks.")
    average_upsampling: bool = _option(True, "flow_matching: spread the text evenly over the frames.")
    backbone_name: str = _option("dtm-f5-tiny", "flow_matching: name recorded in the backbone.")
    license: str = _option("mit", "flow_matching: licence of the trained weights.")
    head_hidden_size: int = _option(512, "dtm: width of the head.")
    head_num_layers: int = _option(6, "dtm: blocks of the head.")
    head_architecture: str = _option("mlp", "dtm: `mlp` or `conv`.")
    head_prediction: str = _option("residual", "dtm: `residual` or `direct`.")
    head_conv_kernel_size: int = _option(7, "dtm: frames a temporal convolution sees.")
    lora_rank: int = _option(16, "tdm: rank of the adapters of student and estimator.")
    lora_alpha: float | None = _option(None, "tdm: an adapter is scaled by alpha / rank; the rank by default.")
    full_parameters: bool = _option(
        False, "tdm: student and estimator are copies of the backbone, not adapters on it."
    )


@dataclass
class SourceArguments:
    """One of several sources of speech."""

    dataset: str
    format: str | None = None
    weight: float = 1.0
    """Rows are drawn from the sources in proportion to their weights."""
    config: str | None = None
    revision: str | None = None
    audio_column: str = "audio"
    text_column: str = "text"
    speaker_column: str | None = "speaker"


@dataclass
class DataArguments:
    """Where the speech comes from, and how it is batched."""

    dataset: str | None = _option(None, "Folder, or name on the Hub, of the one source of speech.")
    dataset_format: str | None = _option(
        None,
        "`parquet`, `webdataset`, `audiofolder`, `imagefolder` (tdm_image) or `f5`; by default what the folder holds.",
    )
    dataset_config: str | None = _option(None, "Configuration of a Hub dataset.")
    dataset_revision: str | None = _option(None, "Revision of a Hub dataset.")
    sources: list[SourceArguments] = _option(
        [],
        "In place of `dataset`, several sources: dataset, format, weight, config, revision and the columns of each. "
        "On the command line, folders or names that need nothing else.",
    )
    dataset_description: str | None = _option(None, "What a model card says of the data; the name by default.")
    train_split: str = _option("train", "Split to train on.")
    validation_split: str | None = _option("validation", "Split of the validation loss; none to go without.")
    audio_column: str = _option("audio", "Column with the encoded audio; `json.text` reaches into a nested column.")
    text_column: str = _option("text", "Column with the transcript.")
    speaker_column: str | None = _option("speaker", "Column with the speaker; none if there is none.")
    min_seconds: float = _option(0.3, "Shorter clips are dropped and counted.")
    max_seconds: float = _option(30.0, "Longer clips are dropped and counted.")
    frames_per_batch: int = _option(38400, "Frames of a batch on one device, padding included.")
    max_samples: int = _option(64, "Utterances of a batch at most.")
    frame_multiple: int = _option(
        1, "Batches are padded to a multiple of frames: CPU kernels are compiled for each shape."
    )
    bucket_size: int = _option(1024, "Utterances that a worker holds and sorts by length at a time.")
    pair_probability: float = _option(0.0, "Share of samples that join two clips of a speaker, as inference does.")
    num_workers: int = _option(2, "Processes that read and decode.")
    max_bad_fraction: float = _option(0.05, "Share of the rows of a source that may be bad before the run stops.")

    def all_sources(self) -> list[SourceArguments]:
        """`sources`, or the one that the short form describes."""
        if self.dataset is None:
            return self.sources
        return [
            SourceArguments(
                dataset=self.dataset,
                format=self.dataset_format,
                config=self.dataset_config,
                revision=self.dataset_revision,
                audio_column=self.audio_column,
                text_column=self.text_column,
                speaker_column=self.speaker_column,
            )
        ]


@dataclass
class ObjectiveArguments:
    """The loss and what it draws."""

    t_sampling: str = _option(
        "grid", "`grid` (times of the scheduler), `uniform`, `sway`, `sway_twice` (dense near 0) or `logit_normal`."
    )
    t_min: int = _option(0, "dtm: first grid index drawn. 1 reproduces the documents, but leaves t=0 untrained.")
    t_logit_mean: float = _option(0.0, "Mean of the logit of t, for `logit_normal`.")
    s_sampling: str = _option("uniform", "dtm: `uniform` or `logit_normal`.")
    head_batch_multiplier: int = _option(4, "dtm: draws of (s, Y_0) per backbone pass.")
    mean_draw_prob: float = _option(
        0.0, "dtm: share of the draws at s = 0, whose target is the backbone's guided mean: what one head call gives."
    )
    min_loss_remainder: float = _option(0.1, "dtm: lower bound of 1 - s in the loss weight.")
    baked_guidance_scale: float | None = _option(
        None, "dtm: guidance scale built into the targets; none for a head that is guided."
    )
    baked_guidance_range: list[float] | None = _option(
        None, "dtm: lowest and highest scale, for a head that follows any between; `baked_guidance_scale` by default."
    )
    baked_guidance_end: float = _option(1.0, "dtm: time t from which on no guidance is built in.")
    audio_drop_prob: float = _option(0.3, "Share of samples without the audio condition.")
    cond_drop_prob: float = _option(0.2, "Share of samples without audio and text condition.")
    frac_lengths_mask: list[float] = _option([0.7, 1.0], "Bounds of the share of frames to predict.")
    prompt_loss: bool = _option(
        True,
        "Whether the frames that the audio condition shows enter the loss too. F5-TTS leaves them out, but its "
        "sampler denoises them all the same.",
    )
    pair_target_prob: float = _option(0.5, "Share of the prompt+target pairs in which the target is predicted.")
    num_inference_steps: int = _option(8, "Global steps T of the saved scheduler, and of `t_sampling: grid`.")
    num_head_steps: int = _option(2, "Head calls of the saved scheduler.")
    head_solver: str = _option("midpoint", "Head solver of the saved scheduler.")
    time_grid: str = _option("sway", "Global grid of the saved scheduler, and of a student's steps.")
    step_counts: list[int] = _option([1, 2, 4], "tdm: numbers of steps that the student serves, 1-4 each.")
    weight_type: str = _option(
        "constant", "tdm: weight of the student's loss by the noise level: `constant`, `snr` or `min_snr`."
    )
    huber_scale: float = _option(
        0.1, "tdm: normalised difference from which on the student's loss grows linearly rather than as a square."
    )
    update_estimator_every: int = _option(1, "tdm: the estimator is updated in every so-many-th step.")
    estimator_updates: int = _option(1, "tdm: updates of the estimator in such a step, before that of the student.")
    teacher_guidance_scale: float = _option(3.0, "tdm: guidance scale of the teacher, F5-TTS's cfg_strength + 1.")
    teacher_guidance_end: float = _option(1.0, "tdm: time from which on the teacher is unguided.")


@dataclass
class OptimizationArguments:
    """The optimizer and the schedule."""

    output_dir: str = _option("runs/dtm", "Folder for checkpoints and the finished pipeline.")
    max_steps: int = _option(100000, "Optimizer steps.")
    learning_rate: float = _option(1e-4, "Peak learning rate.")
    estimator_learning_rate: float | None = _option(None, "tdm: that of the estimator; the student's by default.")
    warmup_steps: int = _option(1000, "Steps of linear warm-up.")
    lr_scheduler: str = _option("cosine", "`cosine`, `linear`, `constant_with_warmup` or `warmup_stable_decay`.")
    decay_steps: int = _option(0, "Steps of the final decay of `warmup_stable_decay`.")
    optimizer: str = _option(
        "adamw",
        "`adamw`, `adamw_8bit` (bitsandbytes), or `muon` for the matrices of the blocks and AdamW for the rest.",
    )
    adam_beta2: float = _option(0.999, "Second beta of AdamW.")
    weight_decay: float = _option(0.01, "Weight decay.")
    max_grad_norm: float = _option(1.0, "Gradient norm clip.")
    gradient_accumulation_steps: int = _option(1, "Batches per optimizer step.")
    mixed_precision: str = _option("no", "`no` or `bf16`.")
    torch_compile: bool = _option(False, "Compile the blocks of the networks; the first steps then take a minute.")
    ema_decay: float = _option(0.9999, "Decay of the weight average that is saved.")
    gradient_checkpointing: bool = _option(False, "Trade compute for memory in the trained network.")
    seed: int = _option(0, "Seed of the weights, the noise and the order of the data.")


@dataclass
class LoggingArguments:
    """What is written while training runs."""

    log_interval: int = _option(20, "Steps between log lines.")
    eval_interval: int = _option(1000, "Steps between validation losses.")
    num_validation_batches: int = _option(4, "Batches of the fixed validation set.")
    save_interval: int = _option(1000, "Steps between checkpoints.")
    save_total_limit: int = _option(
        2, "Newest checkpoints kept; that with the best validation loss (tdm: sample metric) is kept too."
    )
    keep_every: int | None = _option(None, "Keep the checkpoints at multiples of so many steps for good.")
    sample_interval: int = _option(1000, "Steps between speech from the prompts.")
    sample_prompts: list[str] = _option(
        [], "What is spoken while training runs, `speaker|text` each, or drawn (tdm_image), `text` each."
    )
    sample_prompts_file: str | None = _option(None, "File of such lines; `#` begins a comment.")
    push_to_hub: str | None = _option(None, "Push each checkpoint to this `org/name` on the Hub.")
    report_to: str = _option("tensorboard", "Accelerate tracker: `tensorboard`, `wandb` or `none`.")
    resume: bool = _option(True, "Continue from the newest complete checkpoint in `output_dir`.")


@dataclass
class ImageArguments:
    """tdm_image: the pictures. `tdm` in the help of other options means this objective too."""

    resolution: int = _option(1024, "Height and width of the pictures in pixels.")
    images_per_batch: int = _option(1, "Prompts of a batch on one device.")
    image_column: str | None = _option(
        None,
        "Column with pictures of the validation split, to compare samples with; by default the teacher draws them.",
    )
    embedded_guidance_scale: float = _option(
        3.5, "What a network with a guidance embedding (FLUX.1-dev) is told, here and when it is used."
    )
    max_sequence_length: int = _option(512, "Tokens of a T5 text encoder, here and when it is used.")
    grid_shift: float | None = _option(
        None, "Shift of a flow's grid of steps; by default the scheduler's at this resolution."
    )
    teacher_steps: int = _option(32, "Steps of the teacher's pictures.")
    save_merged: bool = _option(False, "Save whole pipelines in place of a LoRA.")


SECTIONS = {
    "model": ModelArguments,
    "data": DataArguments,
    "images": ImageArguments,
    "objective": ObjectiveArguments,
    "optimization": OptimizationArguments,
    "logging": LoggingArguments,
}


@dataclass
class TrainingConfig:
    """All sections of a run."""

    model: ModelArguments
    data: DataArguments
    images: ImageArguments
    objective: ObjectiveArguments
    optimization: OptimizationArguments
    logging: LoggingArguments
