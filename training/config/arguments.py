"""One dataclass per section of a training configuration."""

from dataclasses import asdict, dataclass
from typing import Any

from dtm_hf.training.config.fields import option

FORMATS = ("parquet", "webdataset", "audiofolder", "imagefolder", "f5")


@dataclass
class ModelArguments:
    """What is trained, and the components around it."""

    objective: str = option("dtm", "What is trained.")
    base_model: str | None = option(None, "Pipeline folder or Hub name that gives backbone, tokenizer and vocoder.")
    base_model_revision: str | None = option(None, "Revision of `base_model`.")
    f5_checkpoint: str | None = option(None, "Official F5-TTS checkpoint, in place of `base_model`.")
    f5_variant: str = option(
        "v1_base", "Variant of `f5_checkpoint`.", choices=("v1_base", "v1_small", "base", "small")
    )
    vocab_file: str | None = option(None, "Vocabulary, one token a line; f5_tts's own by default.")
    init_from: str | None = option(
        None,
        "What training starts from: a head (dtm), a pipeline (flow_matching; tdm with `full_parameters`), a "
        "student's adapters (tdm) or a vocoder (vocoder).",
    )
    init_from_revision: str | None = option(None, "Revision of `init_from`.")
    backbone_dtype: str = option(
        "float32",
        "The frozen backbone in `float32` or `bfloat16`; it is saved so too.",
        choices=("float32", "bfloat16"),
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

    @property
    def columns(self) -> dict[str, str | None]:
        """The column of each role of a row of speech."""
        return {"audio": self.audio_column, "text": self.text_column, "speaker": self.speaker_column}


@dataclass
class DataArguments:
    """Where the speech comes from, and how it is batched."""

    dataset: str | None = option(None, "Folder, or name on the Hub, of the one source of speech.")
    dataset_format: str | None = option(
        None,
        "`parquet`, `webdataset`, `audiofolder`, `imagefolder` or `f5`; by default what the folder holds.",
    )
    dataset_config: str | None = option(None, "Configuration of a Hub dataset.")
    dataset_revision: str | None = option(None, "Revision of a Hub dataset.")
    sources: list[SourceArguments] = option(
        [],
        "In place of `dataset`, several sources: dataset, format, weight, config, revision and the columns of each. "
        "On the command line, folders or names that need nothing else.",
    )
    dataset_description: str | None = option(None, "What a model card says of the data; the name by default.")
    train_split: str = option("train", "Split to train on.")
    validation_split: str | None = option("validation", "Split of the validation loss; none to go without.")
    audio_column: str = option("audio", "Column with the encoded audio; `json.text` reaches into a nested column.")
    text_column: str = option("text", "Column with the transcript.")
    speaker_column: str | None = option("speaker", "Column with the speaker; none if there is none.")
    min_seconds: float = option(0.3, "Shorter clips are dropped and counted.")
    max_seconds: float = option(30.0, "Longer clips are dropped and counted.", above=0)
    frames_per_batch: int = option(38400, "Frames of a batch on one device, padding included.", above=0)
    max_samples: int = option(64, "Utterances of a batch at most.", above=0)
    frame_multiple: int = option(
        1, "Batches are padded to a multiple of frames: CPU kernels are compiled for each shape.", above=0
    )
    bucket_size: int = option(1024, "Utterances that a worker holds and sorts by length at a time.", above=0)
    pair_probability: float = option(
        0.0, "Share of samples that join two clips of a speaker, as inference does.", at_least=0, at_most=1
    )
    num_workers: int = option(2, "Processes that read and decode.", at_least=0)
    max_bad_fraction: float = option(
        0.05, "Share of the rows of a source that may be bad before the run stops.", at_least=0, at_most=1
    )

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
class OptimizationArguments:
    """The optimizer and the schedule."""

    output_dir: str = option("runs/dtm", "Folder for checkpoints and the finished pipeline.")
    max_steps: int = option(100000, "Optimizer steps.", above=0)
    learning_rate: float = option(1e-4, "Peak learning rate.", above=0)
    warmup_steps: int = option(1000, "Steps of linear warm-up.", at_least=0)
    lr_scheduler: str = option(
        "cosine",
        "`cosine`, `linear`, `constant_with_warmup` or `warmup_stable_decay`.",
        choices=("cosine", "linear", "constant_with_warmup", "warmup_stable_decay"),
    )
    decay_steps: int = option(0, "Steps of the final decay of `warmup_stable_decay`.", at_least=0)
    optimizer: str = option(
        "adamw",
        "`adamw`, `adamw_8bit` (bitsandbytes), or `muon` for the matrices of the blocks and AdamW for the rest.",
        choices=("adamw", "adamw_8bit", "muon"),
    )
    adam_beta1: float = option(0.9, "First beta of AdamW.", at_least=0, at_most=1)
    adam_beta2: float = option(0.999, "Second beta of AdamW.", at_least=0, at_most=1)
    weight_decay: float = option(0.01, "Weight decay.", at_least=0)
    max_grad_norm: float = option(1.0, "Gradient norm clip.", above=0)
    max_skipped_steps: int = option(
        10, "Steps in a row without a finite loss and gradient, each skipped, after which the run stops.", above=0
    )
    gradient_accumulation_steps: int = option(1, "Batches per optimizer step.", above=0)
    mixed_precision: str = option("no", "`no` or `bf16`.", choices=("no", "bf16"))
    torch_compile: bool = option(False, "Compile the blocks of the networks; the first steps then take a minute.")
    ema_decay: float = option(0.9999, "Decay of the weight average that is saved.", at_least=0, at_most=1)
    gradient_checkpointing: bool = option(False, "Trade compute for memory in the trained network.")
    seed: int = option(0, "Seed of the weights, the noise and the order of the data.")


@dataclass
class LoggingArguments:
    """What is written while training runs."""

    log_interval: int = option(20, "Steps between log lines.", above=0)
    eval_interval: int = option(1000, "Steps between validation losses.", above=0)
    num_validation_batches: int = option(4, "Batches of the fixed validation set.", at_least=0)
    save_interval: int = option(1000, "Steps between checkpoints.", above=0)
    save_total_limit: int = option(
        2, "Newest checkpoints kept; that with the best validation loss or sample metric is kept too.", above=0
    )
    keep_every: int | None = option(None, "Keep the checkpoints at multiples of so many steps for good.")
    sample_interval: int = option(1000, "Steps between samples of the prompts.", above=0)
    sample_prompts: list[str] = option(
        [], "What is spoken while training runs, `speaker|text` each, or drawn, `text` each."
    )
    sample_prompts_file: str | None = option(None, "File of such lines; `#` begins a comment.")
    push_to_hub: str | None = option(None, "Push each checkpoint to this `org/name` on the Hub.")
    report_to: str = option(
        "tensorboard",
        "Accelerate tracker: `tensorboard`, `wandb` or `none`.",
        choices=("tensorboard", "wandb", "none"),
    )
    run_name: str | None = option(None, "What W&B calls the run.")
    resume: bool = option(True, "Continue from the newest complete checkpoint in `output_dir`.")


@dataclass
class TrainingConfig:
    """All sections of a run; `objective` is that of its objective, as the table in training/systems.py has it."""

    model: ModelArguments
    data: DataArguments
    objective: Any
    optimization: OptimizationArguments
    logging: LoggingArguments

    def flat(self) -> dict[str, int | float | str | bool]:
        """All fields by name, as a tracker can show them."""
        values = {name: value for section in asdict(self).values() for name, value in section.items()}
        shown = int | float | str | bool
        return {name: value if isinstance(value, shown) else str(value) for name, value in values.items()}
