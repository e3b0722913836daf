"""What the tasks that train on speech share."""

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import nn

from dtm_hf.hub import save_with_card
from dtm_hf.precision import FasterFloat32
from dtm_hf.training.config.arguments import TrainingConfig
from dtm_hf.training.loop.task import Task
from dtm_hf.training.objectives.conditioning import MelBatch, jitter_durations
from dtm_hf.training.objectives.phases import Phase
from dtm_hf.training.speech.compilation import compile_parts
from dtm_hf.training.speech.components import Components
from dtm_hf.training.speech.prompts import read_prompts, validation_rows
from dtm_hf.training.speech.provenance import training_record
from dtm_hf.training.speech.rows import build_loader
from dtm_hf.training.speech.samples import SpeechSamples
from dtm_hf.training.speech.speaker import PipelineSpeaker


class SpeechTask(Task):
    """
    One phase and one group, unless a subclass has others. A subclass says which components it trains, what is
    published of them and where their model card takes its figures from.

    Args:
        config ([`TrainingConfig`]): the run.
    """

    unit = "frames"

    def __init__(self, config: TrainingConfig):
        self.config = config
        self.components = self.build(config)
        self.module = self.components.trained
        self.objective = self.components.objective
        self._samples: SpeechSamples | None = None

    @staticmethod
    @abstractmethod
    def build(config: TrainingConfig) -> Components:
        """The components of a run, on the CPU."""

    def groups(self) -> dict[str, dict[str, nn.Parameter]]:
        trainable = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        return {self.config.model.objective: trainable}

    def place(self, device: torch.device) -> None:
        options = self.config.optimization
        self.components.to(device)
        if options.torch_compile:
            for part in (self.components.backbone, self.components.head):
                if part is not None:
                    compile_parts(part)
        if options.gradient_checkpointing:
            # The name of diffusers' models, and that of transformers'.
            enable = "enable_gradient_checkpointing"
            getattr(self.module, enable if hasattr(self.module, enable) else "gradient_checkpointing_enable")()

    def phases(self, step: int) -> Sequence[Phase]:
        return [Phase(self.config.model.objective, self.objective.loss)]

    # Data

    def loader(self, split: str, *, seed: int, rank: int, world_size: int, endless: bool):
        parts = self.components
        return build_loader(
            self.config.data,
            split,
            parts.tokenizer,
            parts.feature_extractor,
            seed=seed,
            rank=rank,
            world_size=world_size,
            endless=endless,
        )

    def batch(self, raw: dict, device: torch.device) -> MelBatch:
        extractor = self.components.feature_extractor
        mel = extractor.log_mel(raw["waveform"].to(device, non_blocking=True), raw["num_samples"])
        surplus = -mel.shape[1] % self.config.data.frame_multiple
        mel = nn.functional.pad(mel, (0, 0, 0, surplus))
        num_frames = extractor.num_frames(raw["num_samples"])
        mask = torch.arange(mel.shape[1])[None] < num_frames[:, None]
        prompt_frames = raw["prompt_samples"] // extractor.hop_length
        mask, text_ids = mask.to(device), raw["text_ids"].to(device)
        aligner = self.components.text_aligner
        durations = None if aligner is None else aligner.align(mel, mask, text_ids)
        return MelBatch(mel, mask, text_ids, prompt_frames.to(device), durations)

    def size(self, raw: dict, batch: MelBatch) -> tuple[int, int]:
        # From the lengths, which are on the host: to sum the mask would wait for the device.
        frames = int(self.components.feature_extractor.num_frames(raw["num_samples"]).sum())
        return frames, batch.attention_mask.numel()

    def prepare(self, batch: MelBatch) -> MelBatch:
        jitter = getattr(self.config.objective, "duration_jitter", 0.0)
        if jitter == 0 or batch.durations is None:
            return batch
        return dataclasses.replace(batch, durations=jitter_durations(batch.durations, jitter))

    def amount(self, units: int) -> dict[str, float]:
        """Hours of speech, repeats counted."""
        extractor = self.components.feature_extractor
        return {"hours": units * extractor.hop_length / extractor.sampling_rate / 3600}

    # Results

    def precision(self) -> AbstractContextManager:
        options, backbone = self.config.optimization, self.components.backbone
        faster = backbone.device.type == "cpu" and options.mixed_precision == "bf16"
        # Compiled, bfloat16 is the faster one throughout; and a recomputation in the backward pass is outside of this.
        faster = faster and not options.torch_compile and not options.gradient_checkpointing
        faster = faster and backbone.dtype == torch.float32
        return FasterFloat32() if faster else nullcontext()

    def validate(self, batch: MelBatch, generator: torch.Generator) -> Mapping[str, torch.Tensor | float]:
        loss, figures = self.objective.loss(self.module, batch, generator)
        return {"loss": loss} | figures | self.objective.probe(self.module, batch, generator)

    def open_samples(self, folder: Path) -> bool:
        logging = self.config.logging
        prompts = read_prompts(logging.sample_prompts, logging.sample_prompts_file)
        if prompts:
            rows = validation_rows(self.config.data)
            self._samples = SpeechSamples(PipelineSpeaker(self.components.pipeline()), prompts, rows, folder)
        return bool(prompts)

    def write_samples(self, step: int, trackers: Sequence) -> None:
        self._samples.write(step, trackers)

    def save(self, folder: Path, step: int, units: int) -> None:
        self._record(step, units)
        self.components.pipeline().save_pretrained(str(folder))

    def save_repository(
        self, folder: Path, repo_id: str, step: int, units: int, results: dict[str, float] | None
    ) -> None:
        table = self._record(step, units, results)
        save_with_card(self.published(), folder, repo_id, results=table)

    def published(self):
        """What is pushed to the Hub: the whole pipeline."""
        return self.components.pipeline()

    @abstractmethod
    def record(self, training_data: str, results: dict | None) -> None:
        """Write into the configuration of what is trained what its model card is to say."""

    def _record(self, step: int, units: int, results: dict[str, float] | None = None) -> dict | None:
        """Record how long it was trained and what was measured; returns the results as the card shows them."""
        training_data, table = training_record(self.config, step, self.amount(units)["hours"], results)
        self.record(training_data, table)
        return table
