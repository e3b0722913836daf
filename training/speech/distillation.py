"""The task of distilling a few-step student of F5-TTS."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from dtm_hf.pipelines.repositories import save_with_card
from dtm_hf.training.config.arguments import TrainingConfig
from dtm_hf.training.loop.task import Phase
from dtm_hf.training.objectives.conditioning import MelBatch
from dtm_hf.training.objectives.tdm_speech import WalkedBatch
from dtm_hf.training.speech.components import training_record
from dtm_hf.training.speech.task import SpeechTask

# Of the finished pipeline's folder: the student alone.
STUDENT_FOLDER = "student"


class SpeechDistillation(SpeechTask):
    """
    A student with an estimator beside it, each an own group. The best checkpoint is that whose samples in the most
    steps come nearest to the recordings: the loss need not fall while the student gets better.

    Args:
        config ([`TrainingConfig`]): the run.
    """

    groups_are_called = False
    decisive = "mel_distance"

    def __init__(self, config: TrainingConfig):
        super().__init__(config)
        self.networks = self.components.networks

    def groups(self) -> dict[str, dict[str, nn.Parameter]]:
        return {role: self.networks.parameters(role) for role in ("student", "estimator")}

    def place(self, device: torch.device) -> None:
        self.networks.to(device)
        if self.config.optimization.gradient_checkpointing:
            self.networks.enable_gradient_checkpointing()

    def phases(self, step: int) -> Sequence[Phase]:
        return self.objective.phases(step)

    def prepare(self, batch: MelBatch) -> WalkedBatch:
        return self.objective.prepare(batch)

    def validate(self, batch: MelBatch, generator: torch.Generator) -> Mapping[str, float]:
        figures, seed = {}, generator.initial_seed()
        for count in self.networks.step_counts:
            # The same noise for each, so that only the number of steps differs.
            judged = self.objective.judge(batch, count, generator.manual_seed(seed))
            figures |= {f"{name}_{count}_steps": figure for name, figure in judged.items()}
        return figures | {"mel_distance": judged["mel_distance"]}

    # Results

    def write_samples(self, step: int, trackers: Sequence) -> None:
        # Puts the weights as they are now into the pipeline that speaks.
        self.components.pipeline()
        super().write_samples(step, trackers)

    def save(self, folder: Path, step: int, units: int) -> None:
        """The whole pipeline with the student's weights; with adapters, these alone beside it."""
        self._record(step, units)
        self.components.pipeline().save_pretrained(str(folder))
        if not self.networks.full_parameters:
            self.components.student().save_pretrained(folder / STUDENT_FOLDER)

    def save_repository(
        self, folder: Path, repo_id: str, step: int, units: int, results: dict[str, float] | None
    ) -> None:
        """The whole pipeline, or the adapters alone where their base model is on the Hub."""
        table = self._record(step, units, results)
        alone = not self.networks.full_parameters and self.components.student_config.base_model is not None
        model = self.components.student() if alone else self.components.pipeline()
        save_with_card(model, folder, repo_id, results=table)

    def _record(self, step: int, units: int, results: dict[str, float] | None = None) -> dict | None:
        record = training_record(self.config, step, self.amount(units)["hours"], results)
        config = self.components.student_config
        config.training_data, config.results = record
        return config.results
