"""The task of training a vocoder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from dtm_hf.hub import save_with_card
from dtm_hf.training.codes.rows import build_code_loader
from dtm_hf.training.config.arguments import TrainingConfig
from dtm_hf.training.data.loader import BatchLoader
from dtm_hf.training.loop.task import Task
from dtm_hf.training.objectives.losses import LossOutput
from dtm_hf.training.objectives.phases import Phase
from dtm_hf.training.speech.prompts import read_prompts, validation_rows
from dtm_hf.training.speech.provenance import training_record
from dtm_hf.training.speech.samples import SpeechSamples
from dtm_hf.training.vocoder.arguments import VocoderArguments
from dtm_hf.training.vocoder.discriminators import Discriminators
from dtm_hf.training.vocoder.objective import VocoderObjective
from dtm_hf.training.vocoder.rows import ClipBatch, ClipMaker, draw_segments
from dtm_hf.training.vocoder.speaker import VocoderSpeaker
from dtm_hf.vocoder.vocoder_vocos import VocosVocoder


class VocoderTask(Task):
    """
    A new [`VocosVocoder`] or `init_from`, and discriminators, which are a group of their own. Losses call the networks
    themselves, so the loop averages gradients.

    Args:
        config ([`TrainingConfig`]): the run.

    Raises:
        ValueError: for an `init_from` that cannot be trained so.
        OSError: if there is no such `init_from`.
    """

    unit = "frames"
    groups_are_called = False
    decisive = "mel"

    def __init__(self, config: TrainingConfig):
        self.config = config
        arguments: VocoderArguments = config.objective
        self.vocoder = _vocoder(config)
        discriminators = Discriminators(
            arguments.discriminator_periods, arguments.discriminator_windows, arguments.discriminator_channels
        )
        self.module = nn.ModuleDict({"vocoder": self.vocoder, "discriminator": discriminators})
        self.objective = VocoderObjective(
            self.vocoder,
            discriminators,
            mel_weight=arguments.mel_weight,
            stft_weight=arguments.stft_weight,
            windows_weight=arguments.discriminator_windows_weight,
            mel_noise=arguments.mel_noise,
        )
        hop, rate = self.vocoder.hop_length, self.vocoder.sampling_rate
        self.maker = ClipMaker(config.data, rate, hop, arguments.segment_frames)
        self.segment_size = arguments.segment_frames * hop
        self._samples: SpeechSamples | None = None

    def groups(self) -> dict[str, dict[str, nn.Parameter]]:
        return {name: dict(network.named_parameters()) for name, network in self.module.items()}

    def learning_rate(self, group: str) -> float | None:
        return self.config.objective.discriminator_learning_rate if group == "discriminator" else None

    def place(self, device: torch.device) -> None:
        for buffer in self.module.buffers():
            # A Hann window is a part of a longer one, which safetensors refuses to load.
            buffer.data = buffer.clone()
        self.module.to(device)

    def phases(self, step: int) -> Sequence[Phase]:
        """In each step the discriminators first, once they have joined."""
        adversarial = step >= self.config.objective.adversarial_start

        def discriminator_loss(_module: nn.Module, wave: torch.Tensor) -> LossOutput:
            return self.objective.discriminator_loss(wave)

        def vocoder_loss(_module: nn.Module, wave: torch.Tensor) -> LossOutput:
            return self.objective.generator_loss(wave, adversarial)

        return [Phase("discriminator", discriminator_loss)] * adversarial + [Phase("vocoder", vocoder_loss)]

    # Data

    def loader(self, split: str, *, seed: int, rank: int, world_size: int, endless: bool) -> BatchLoader:
        share = {"seed": seed, "rank": rank, "world_size": world_size, "endless": endless}
        return build_code_loader(self.config.data, split, self.maker, **share)

    def batch(self, raw: dict, device: torch.device) -> ClipBatch:
        return ClipBatch(raw["waveform"].to(device, non_blocking=True), raw["num_samples"].to(device))

    def prepare(self, batch: ClipBatch) -> torch.Tensor:
        """A random segment of each recording, `(B, T)`."""
        return draw_segments(batch, self.segment_size)

    def size(self, raw: dict, batch: ClipBatch) -> tuple[int, int]:
        """Of the segments, which have no padding."""
        frames = len(raw["num_samples"]) * self.config.objective.segment_frames
        return frames, frames

    def amount(self, units: int) -> dict[str, float]:
        """Hours of speech, repeats counted."""
        return {"hours": units * self.vocoder.hop_length / self.vocoder.sampling_rate / 3600}

    # Results

    def validate(self, batch: ClipBatch, generator: torch.Generator) -> Mapping[str, torch.Tensor]:
        return self.objective.distances(draw_segments(batch, self.segment_size, generator))

    def open_samples(self, folder: Path) -> bool:
        logging = self.config.logging
        prompts = read_prompts(logging.sample_prompts, logging.sample_prompts_file)
        if prompts:
            speaker = VocoderSpeaker(self.vocoder, self.objective.extractor)
            self._samples = SpeechSamples(speaker, prompts, validation_rows(self.config.data), folder)
        return bool(prompts)

    def write_samples(self, step: int, trackers: Sequence) -> None:
        self._samples.write(step, trackers)

    def save(self, folder: Path, step: int, units: int) -> None:
        self._record(step, units)
        self.vocoder.save_pretrained(folder)

    def save_repository(
        self, folder: Path, repo_id: str, step: int, units: int, results: dict[str, float] | None
    ) -> None:
        table = self._record(step, units, results)
        save_with_card(self.vocoder, folder, repo_id, results=table)

    def _record(self, step: int, units: int, results: dict[str, float] | None = None) -> dict | None:
        training_data, table = training_record(self.config, step, self.amount(units)["hours"], results)
        self.vocoder.register_to_config(training_data=training_data, license=self.config.objective.license)
        return table


def _vocoder(config: TrainingConfig) -> VocosVocoder:
    model, sizes = config.model, config.objective
    if model.init_from is None:
        return VocosVocoder(
            dim=sizes.vocoder_dim,
            intermediate_dim=sizes.vocoder_intermediate_dim,
            num_layers=sizes.vocoder_num_layers,
        )
    vocoder = VocosVocoder.from_pretrained(model.init_from, revision=model.init_from_revision, dtype=torch.float32)
    if vocoder.config.padding != "center":
        raise ValueError(
            f"`init_from` must be a vocoder with the padding 'center', but {model.init_from!r} has "
            f"{vocoder.config.padding!r}."
        )
    return vocoder
