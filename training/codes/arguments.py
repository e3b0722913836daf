"""The sections of the objectives that train on codes, and what a run of each cannot be told."""

from dataclasses import dataclass

from dtm_hf.scheduling.solvers import HEAD_SOLVERS, effective_solver
from dtm_hf.training.config.arguments import TrainingConfig
from dtm_hf.training.config.fields import option


@dataclass
class _NetworkArguments:
    codec: str = option("kyutai/mimi", "Folder or Hub name of the `MimiModel` that the codes are of.")
    codec_revision: str | None = option(None, "Revision of `codec`.")
    codes_column: str = option("codes", "Column of the codes, as `corpus tokenize` writes them or lists of lists.")
    speakers: list[str] = option([], "Names of the voices; by default all that the training split names.")
    num_codebooks: int = option(8, "Codebooks that are spoken in, the first ones.", at_least=1, at_most=32)
    max_text_length: int = option(512, "Longer texts, in tokens, are dropped and counted.", above=0)
    max_audio_frames: int = option(256, "Longer recordings, in frames of the codec, are dropped and counted.", above=0)
    trm_text_dim: int = option(256, "Width of the text encoder.", above=0)
    trm_text_layers: int = option(4, "Blocks of the text encoder.", above=0)
    trm_audio_dim: int = option(256, "Width of answer and latent.", above=0)
    trm_ffn_dim: int = option(512, "Width inside the feed-forward networks.", above=0)
    trm_num_heads: int = option(8, "Attention heads.", above=0)
    trm_num_layers: int = option(2, "Blocks of the network that is applied again and again.", above=0)
    trm_h_cycles: int = option(3, "H updates of the answer.", above=0)
    trm_l_cycles: int = option(6, "L updates of the latent before each.", above=0)
    trm_update: str = option(
        "recursive", "`recursive`, TRM's own form, or the `document`'s.", choices=("recursive", "document")
    )
    trm_align_text: bool = option(True, "Frames look at the text by positions on one scale for both.")
    codebook_embed_dim: int = option(64, "Width of the embedding of codes, and of a codebook's.", above=0)
    speaker_embed_dim: int = option(64, "Width of the embedding of voices.", above=0)
    trm_dropout: float = option(0.1, "Dropout.", at_least=0, at_most=1)
    text_drop_prob: float = option(0.1, "Share of the rows without text, for guidance.", at_least=0, at_most=1)
    prompt_prob: float = option(
        0.0,
        "Share of the rows whose beginning is shown, as a recording to go on from.",
        at_least=0,
        at_most=1,
    )
    sample_speaker: str | None = option(None, "Name or number of the voice of sample prompts that name none.")
    sample_temperature: float = option(0.8, "Temperature of the samples; 0 takes the likeliest codes.", at_least=0)
    license: str = option("mit", "Licence of the trained weights.")


@dataclass
class TRMArguments(_NetworkArguments):
    """trm: a recursive network from text to the codes of a codec."""

    share_output_heads: bool = option(False, "One projection to codes for all codebooks.")
    feedback: bool = option(True, "Show cycles the codes decided before them; off, they see none.")
    silent_share: float = option(
        0.0, "With `feedback`: share of the cycles, rounded down, that decide nothing yet.", at_least=0, at_most=0.9
    )
    num_supervisions: int = option(1, "Without `feedback`: rounds of H cycles, each with a loss.", above=0)
    halt_weight: float = option(
        0.5, "Weight of the halt head's loss: whether the codes are right already; 0 leaves it untrained.", at_least=0
    )
    halt_accuracy: float = option(
        1.0, "Share of a row's open codes from which on they count as right.", above=0, at_most=1
    )
    sample_top_k: int | None = option(50, "Codes that a sample is drawn among; none for all.", above=0)
    sample_top_p: float | None = option(
        None, "Probability of the codes that a sample is drawn among.", above=0, at_most=1
    )


@dataclass
class LatentArguments(_NetworkArguments):
    """trm_latents: the same network with a flow head that draws the codec's latents in the place of codes."""

    head_hidden_size: int = option(512, "Width of the head.", above=0)
    head_num_layers: int = option(6, "Blocks of the head.", above=0)
    head_architecture: str = option(
        "mlp", "`mlp`, `conv` or, for `guidance`, `transformer`.", choices=("mlp", "conv", "transformer")
    )
    head_conv_kernel_size: int = option(7, "Frames a temporal convolution sees.")
    num_head_steps: int = option(2, "Head calls of the saved scheduler.", at_least=0)
    head_solver: str = option("midpoint", "Head solver of the saved scheduler.", choices=HEAD_SOLVERS)
    head_batch_multiplier: int = option(4, "Draws of (s, Y_0) per backbone pass.", above=0)
    min_loss_remainder: float = option(0.1, "Lower bound of 1 - s in the loss weight.", above=0)


@dataclass
class CodecArguments:
    """codec: a `MimiModel` of transformers from recordings."""

    codec_num_filters: int = option(64, "Channels of the first convolution.", above=0)
    codec_hidden_size: int = option(512, "Width of the latents and of the transformers.", above=0)
    codec_num_layers: int = option(8, "Blocks of each transformer.", above=0)
    codec_num_heads: int = option(8, "Attention heads.", above=0)
    codec_intermediate_size: int = option(2048, "Width inside the transformers' feed-forward networks.", above=0)
    codec_num_quantizers: int = option(8, "Codebooks.", at_least=2, at_most=32)
    codec_codebook_size: int = option(2048, "Entries of a codebook.", at_least=2, at_most=2**15)
    codec_codebook_dim: int = option(256, "Width of an entry.", above=0)
    codec_clip_frames: int = option(25, "Frames of 80 ms of a recording that a step sees.", above=0)
    codec_fill_seconds: float = option(120.0, "Speech that the codebooks are filled from at the start.", above=0)
    codec_decay: float = option(0.97, "Decay of the codebooks' running means.", at_least=0, at_most=1)
    codec_commitment: float = option(0.25, "Weight of the latents' distance to their codes.", at_least=0)
    codec_warmup_steps: int = option(
        1000, "Steps before any recording is quantised; the codebooks are filled anew behind them.", at_least=0
    )
    codec_unquantized: float = option(
        0.5, "Share of the recordings of a batch that are decoded from their latents.", at_least=0, at_most=1
    )
    codec_keeps_codes: bool = option(
        False, "Train the decoder of `init_from` alone: its codes, and what speaks in them, stay as they are."
    )
    codec_reading: float = option(
        1.0,
        "Weight of the error of a linear map that reads a frame's log-mel off its latent; it is not saved.",
        at_least=0,
    )
    codec_waveform: float = option(1.0, "Weight of the samples' own distance.", at_least=0)
    license: str = option("mit", "Licence of the trained weights.")


def check_trm(config: TrainingConfig) -> None:
    """
    Raises:
        ValueError: for a network that cannot be trained so.
    """
    arguments: TRMArguments = config.objective
    if arguments.num_supervisions > 1 and arguments.feedback:
        raise ValueError(
            f"`num_supervisions` must be 1 with `feedback`, whose every cycle has a loss, but got "
            f"{arguments.num_supervisions}."
        )
    _check_network(config)


def check_latents(config: TrainingConfig) -> None:
    """
    Raises:
        ValueError: for a network or a head that cannot be trained so.
    """
    arguments: LatentArguments = config.objective
    if arguments.head_architecture == "transformer":
        raise ValueError("`head_architecture` must be 'mlp' or 'conv' for trm_latents, but got 'transformer'.")
    effective_solver(arguments.head_solver, arguments.num_head_steps)
    _check_network(config)


def _check_network(config: TrainingConfig) -> None:
    arguments = config.objective
    for name in ("trm_text_dim", "trm_audio_dim"):
        if getattr(arguments, name) % (2 * arguments.trm_num_heads):
            raise ValueError(
                f"`{name}` must be a multiple of twice `trm_num_heads`, {2 * arguments.trm_num_heads}, but got "
                f"{getattr(arguments, name)}."
            )
    if arguments.max_audio_frames > config.data.frames_per_batch:
        raise ValueError(
            f"`frames_per_batch` must hold a recording of `max_audio_frames` {arguments.max_audio_frames}, but got "
            f"{config.data.frames_per_batch}."
        )
    _check_common(config)


def check_codec(config: TrainingConfig) -> None:
    """
    Raises:
        ValueError: for a codec that cannot be trained so.
    """
    arguments: CodecArguments = config.objective
    if arguments.codec_hidden_size % (2 * arguments.codec_num_heads):
        raise ValueError(
            f"`codec_hidden_size` must be a multiple of twice `codec_num_heads`, {2 * arguments.codec_num_heads}, but "
            f"got {arguments.codec_hidden_size}."
        )
    if arguments.codec_keeps_codes and config.model.init_from is None:
        raise ValueError("`codec_keeps_codes` needs the codec whose codes are kept, but `init_from` is not given.")
    _check_common(config)


def _check_common(config: TrainingConfig) -> None:
    if config.data.pair_probability > 0:
        raise ValueError(
            f"`pair_probability` must be 0 for {config.model.objective}, but got {config.data.pair_probability}."
        )
    if config.optimization.torch_compile:
        raise ValueError(f"`torch_compile` must be off for {config.model.objective}.")
