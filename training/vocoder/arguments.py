"""The section of the objective `vocoder`, and what a run of it cannot be told."""

from dataclasses import dataclass

from dtm_hf.training.config.arguments import TrainingConfig
from dtm_hf.training.config.fields import option


@dataclass
class VocoderArguments:
    """vocoder: a small `VocosVocoder` from recordings."""

    vocoder_dim: int = option(256, "Width of the network.", above=0)
    vocoder_intermediate_dim: int = option(640, "Width inside a block.", above=0)
    vocoder_num_layers: int = option(8, "Blocks.", above=0)
    segment_frames: int = option(64, "Frames of 256 samples of a clip that a step sees.", at_least=8)
    adversarial_start: int = option(20000, "Steps of spectral losses alone, before discriminators join.", at_least=0)
    mel_weight: float = option(45.0, "Weight of the distance of log-mels, the mean over four resolutions.", above=0)
    stft_weight: float = option(10.0, "Weight of the distance of spectra before `adversarial_start`.", at_least=0)
    mel_noise: float = option(
        0.0, "Largest noise that is added to a log-mel that is vocoded, in training: a standard deviation.", at_least=0
    )
    discriminator_periods: list[int] = option([2, 3, 5, 7, 11], "Periods of the discriminators on samples.")
    discriminator_windows: list[int] = option([2048, 1024, 512], "Windows, in samples, of those on spectra.")
    discriminator_channels: int = option(32, "Channels of the discriminators on spectra.", above=0)
    discriminator_windows_weight: float = option(0.1, "Weight of those on spectra beside those on samples.", above=0)
    discriminator_learning_rate: float | None = option(None, "Of the discriminators; by default that of all.", above=0)
    license: str = option("mit", "Licence of the trained weights.")


def check_vocoder(config: TrainingConfig) -> None:
    """
    Raises:
        ValueError: for a vocoder that cannot be trained so.
    """
    arguments: VocoderArguments = config.objective
    if config.data.frames_per_batch < arguments.segment_frames:
        raise ValueError(
            f"`frames_per_batch` must hold `segment_frames`, {arguments.segment_frames}, but got "
            f"{config.data.frames_per_batch}."
        )
    if config.data.pair_probability > 0:
        raise ValueError(f"`pair_probability` must be 0 for vocoder, but got {config.data.pair_probability}.")
    # A window is reflected at both ends of a segment.
    samples = 256 * arguments.segment_frames
    for name, values, largest in (
        ("discriminator_periods", arguments.discriminator_periods, 1000),
        ("discriminator_windows", arguments.discriminator_windows, 2 * samples - 2),
    ):
        smallest = 2 if name == "discriminator_periods" else 64
        for value in values:
            if not smallest <= value <= largest:
                raise ValueError(f"`{name}` must lie in [{smallest}, {largest}], but got {value}.")
    if not arguments.discriminator_periods and not arguments.discriminator_windows:
        raise ValueError("`discriminator_periods` and `discriminator_windows` must not both be empty.")
    for name in ("torch_compile", "gradient_checkpointing"):
        if getattr(config.optimization, name):
            raise ValueError(f"`{name}` must be off for vocoder.")
