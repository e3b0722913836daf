"""The task of distilling a few-step student of F5-TTS."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dtm_hf.backbone.backbone_f5 import F5Backbone
from dtm_hf.backbone.low_rank import NUM_STEPS_EMBED
from dtm_hf.backbone.student import Student, StudentConfig, empty_student, load_student_weights
from dtm_hf.scheduling.scheduling_dtm import DTMScheduler
from dtm_hf.training.config.arguments import TrainingConfig
from dtm_hf.training.objectives.adapters import F5_LAYERS, AdapterNetworks
from dtm_hf.training.objectives.conditioning import MelBatch
from dtm_hf.training.objectives.phases import Phase
from dtm_hf.training.speech.components import Components, frozen_parts
from dtm_hf.training.speech.imitation import ImitationObjective, NoiseBatch
from dtm_hf.training.speech.provenance import provenance
from dtm_hf.training.speech.task import SpeechTask
from dtm_hf.training.speech.tdm import TDMSpeechObjective, WalkedBatch

# Of the finished pipeline's folder: the student alone.
STUDENT_FOLDER = "student"


@dataclass(kw_only=True)
class StudentComponents(Components):
    """
    [`Components`] whose pipeline speaks with a copy of the student's weights, which each call of `pipeline` renews.

    Args:
        networks ([`AdapterNetworks`]): around `backbone`.
        student_config ([`StudentConfig`]): what is to be saved of the student.
    """

    networks: AdapterNetworks
    student_config: StudentConfig
    _speaking: F5Backbone | None = None

    def student(self) -> Student:
        """The adapters of the student as they are now."""
        return Student(self.student_config, self.networks.state())

    def speaking_backbone(self) -> F5Backbone:
        networks, config = self.networks, self.student_config
        embed = networks.parameters("student").get(f"{NUM_STEPS_EMBED}.weight")
        if self._speaking is None:
            self._speaking = empty_student(self.backbone, config.step_counts, config.adapted_until)
        weights, teacher = networks.merged_state_dict(), networks.merged_state_dict("teacher")
        load_student_weights(self._speaking, weights, embed, teacher)
        self._speaking.register_to_config(training_data=config.training_data)
        return self._speaking


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

    @staticmethod
    def build(config: TrainingConfig) -> StudentComponents:
        return student_components(config)

    def groups(self) -> dict[str, dict[str, nn.Parameter]]:
        # One that imitates needs no estimator of its states.
        roles = ("student",) if self.config.objective.imitates else ("student", "estimator")
        return {role: self.networks.parameters(role) for role in roles}

    def learning_rate(self, group: str) -> float | None:
        return self.config.objective.estimator_learning_rate if group == "estimator" else None

    def place(self, device: torch.device) -> None:
        self.components.to(device)
        self.networks.to(device)
        if self.config.optimization.gradient_checkpointing:
            self.networks.enable_gradient_checkpointing()

    def phases(self, step: int) -> Sequence[Phase]:
        return self.objective.phases(step)

    def prepare(self, batch: MelBatch) -> WalkedBatch | NoiseBatch:
        return self.objective.prepare(super().prepare(batch))

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
        super().save(folder, step, units)
        if not self.networks.full_parameters:
            self.components.student().save_pretrained(folder / STUDENT_FOLDER)

    def published(self):
        """The adapters alone where their base model is on the Hub, else the whole pipeline."""
        alone = not self.networks.full_parameters and self.components.student_config.base_model is not None
        return self.components.student() if alone else self.components.pipeline()

    def record(self, training_data: str, results: dict | None) -> None:
        config = self.components.student_config
        config.training_data, config.results = training_data, results


def student_components(config: TrainingConfig) -> StudentComponents:
    """Components of a run, on the CPU."""
    model, draws = config.model, config.objective
    parts = frozen_parts(config)
    backbone = parts["backbone"]
    if backbone.config.step_counts is not None:
        raise ValueError(
            f"`base_model` must have a backbone of many steps, but {model.base_model!r} is a student of "
            f"{backbone.config.step_counts} steps; `init_from` starts from an earlier student."
        )
    scheduler = DTMScheduler(
        num_inference_steps=max(draws.step_counts),
        num_head_steps=0,
        time_grid=draws.time_grid,
    )
    about = provenance(config, backbone)
    networks = AdapterNetworks(
        backbone,
        F5_LAYERS,
        draws.lora_rank,
        draws.lora_alpha,
        step_counts=draws.step_counts,
        full_parameters=draws.full_parameters,
    )
    student_config = StudentConfig(
        rank=networks.rank,
        alpha=networks.alpha,
        step_counts=list(networks.step_counts),
        adapted_until=draws.imitation_end if draws.imitates else None,
        sampler={name: scheduler.config[name] for name in ("num_inference_steps", "time_grid", "sway_coefficient")},
        **about,
    )
    objective = ImitationObjective if draws.imitates else TDMSpeechObjective
    if model.init_from is not None:
        _start_from(networks, student_config, model.init_from, model.init_from_revision)
    return StudentComponents(
        **parts,
        head=None,
        scheduler=scheduler,
        trained=networks.trained,
        objective=objective(draws, networks, scheduler),
        networks=networks,
        student_config=student_config,
    )


def _start_from(networks: AdapterNetworks, config: StudentConfig, name: str, revision: str | None) -> None:
    """Give the student the weights of an earlier one: adapters on the same backbone, or a whole backbone."""
    if networks.full_parameters:
        earlier = F5Backbone.from_pretrained(name, revision=revision, subfolder="backbone", dtype=torch.float32)
        state = dict(earlier.named_parameters())
    else:
        earlier = Student.from_pretrained(name, revision=revision)
        if config.backbone_fingerprint != earlier.config.backbone_fingerprint:
            raise ValueError(
                f"`init_from` must be a student of this run's backbone, fingerprint {config.backbone_fingerprint}, "
                f"but is one of {earlier.config.backbone_name!r}, fingerprint {earlier.config.backbone_fingerprint}."
            )
        if earlier.config.alpha / earlier.config.rank != config.alpha / config.rank:
            raise ValueError(
                f"`lora_alpha` / `lora_rank` must be that of `init_from`, {earlier.config.alpha:g} / "
                f"{earlier.config.rank}, but got {config.alpha:g} / {config.rank}."
            )
        state = dict(earlier.tensors)
    embed = f"{NUM_STEPS_EMBED}.weight"
    if embed not in state and embed in networks.parameters("student"):
        # It served one number of steps; what tells them apart starts at zero.
        state[embed] = networks.state()[embed]
    try:
        networks.load_state(state)
    except ValueError as error:
        raise ValueError(f"`init_from` {name!r} does not fit this run: {error}") from error
