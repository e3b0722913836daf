"""The task of distilling a few-step student of a text-to-image pipeline."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from dtm_hf.hub import hub_name
from dtm_hf.training.config.arguments import TrainingConfig
from dtm_hf.training.data.loader import BatchLoader
from dtm_hf.training.images.data import build_image_loader
from dtm_hf.training.images.loading import load_image_model
from dtm_hf.training.images.metric import sample_figures
from dtm_hf.training.images.networks import LatentNetworks
from dtm_hf.training.images.objective import PromptBatch, TDMImageObjective
from dtm_hf.training.images.samples import ImageSamples, read_image_prompts
from dtm_hf.training.images.saving import load_lora, save_lora, save_merged
from dtm_hf.training.loop.task import Task
from dtm_hf.training.objectives.phases import Phase


class ImageDistillation(Task):
    """
    A student with an estimator beside it, each an own group. Trained on prompts alone; the best checkpoint is that
    whose samples are nearest to pictures of the validation split, or to the teacher's where it has none.

    Args:
        config ([`TrainingConfig`]): the run.

    Raises:
        ValueError: for a pipeline, or an `init_from`, that cannot be trained with these settings.
    """

    groups_are_called = False
    decisive = "sample_distance"
    unit = "images"

    def __init__(self, config: TrainingConfig):
        self.config = config
        model, arguments = config.model, config.objective
        self.model = load_image_model(
            model.base_model,
            arguments.resolution,
            revision=model.base_model_revision,
            dtype=getattr(torch, model.backbone_dtype),
            embedded_guidance_scale=arguments.embedded_guidance_scale,
            max_sequence_length=arguments.max_sequence_length,
            grid_shift=arguments.grid_shift,
        )
        self.networks = LatentNetworks(
            self.model,
            arguments.teacher_guidance_scale,
            rank=arguments.lora_rank,
            alpha=arguments.lora_alpha,
            step_counts=arguments.step_counts,
            full_parameters=arguments.full_parameters,
        )
        if model.init_from is not None:
            load_lora(model.init_from, self.model, self.networks.adapters, revision=model.init_from_revision)
        self.objective = TDMImageObjective(arguments, self.networks)
        self.module = self.networks.adapters.trained
        self._samples: ImageSamples | None = None
        self._references: dict[tuple[str, ...], torch.Tensor] = {}

    def groups(self) -> dict[str, dict[str, nn.Parameter]]:
        return {role: self.networks.adapters.parameters(role) for role in ("student", "estimator")}

    def learning_rate(self, group: str) -> float | None:
        return self.config.objective.estimator_learning_rate if group == "estimator" else None

    def place(self, device: torch.device) -> None:
        self.model.to(device)
        self.networks.adapters.to(device)
        if self.config.optimization.gradient_checkpointing:
            self.networks.adapters.enable_gradient_checkpointing()

    def phases(self, step: int) -> Sequence[Phase]:
        return self.objective.phases(step)

    # Data

    def loader(self, split: str, *, seed: int, rank: int, world_size: int, endless: bool) -> BatchLoader:
        arguments = self.config.objective
        return build_image_loader(
            self.config.data,
            split,
            arguments.images_per_batch,
            # The metric alone looks at pictures.
            image_column=None if endless else arguments.image_column,
            resolution=arguments.resolution,
            seed=seed,
            rank=rank,
            world_size=world_size,
            endless=endless,
            # A distance between distributions wants two samples.
            min_size=1 if endless else 2,
        )

    def batch(self, raw: dict, device: torch.device) -> PromptBatch:
        return PromptBatch(raw["prompts"], self.model.encode(raw["prompts"]), raw["pixels"])

    def size(self, raw: dict, batch: PromptBatch) -> tuple[int, int]:
        return len(batch.prompts), len(batch.prompts)

    def prepare(self, batch: PromptBatch) -> PromptBatch:
        return self.objective.prepare(batch)

    def amount(self, units: int) -> dict[str, float]:
        """Prompts, repeats counted."""
        return {"images": units}

    # Results

    def validate(self, batch: PromptBatch, generator: torch.Generator) -> Mapping[str, float]:
        noise = self.model.noise(len(batch.prompts), generator)
        # Other noise: what a student has in common with the teacher beyond the prompt is no merit here.
        reference = self._reference(batch, self.model.noise(len(batch.prompts), generator))
        return sample_figures(self.networks, self.objective.tdm, batch.prompts, noise, reference)

    def _reference(self, batch: PromptBatch, noise: torch.Tensor) -> torch.Tensor:
        # Kept, since the validation batches are always the same: the teacher takes many steps.
        key = tuple(batch.prompts)
        if key not in self._references:
            if batch.pixels is not None:
                latents = self.model.encode_images(batch.pixels)
            else:
                latents = self.networks.teacher_samples(batch.prompts, noise, self.config.objective.teacher_steps)
            self._references[key] = latents
        return self._references[key]

    def open_samples(self, folder: Path) -> bool:
        logging = self.config.logging
        prompts = read_image_prompts(logging.sample_prompts, logging.sample_prompts_file)
        if prompts:
            self._samples = ImageSamples(
                self.networks, self.objective.tdm, prompts, folder, teacher_steps=self.config.objective.teacher_steps
            )
        return bool(prompts)

    def write_samples(self, step: int, trackers: Sequence) -> None:
        self._samples.write(step, trackers)

    def save(self, folder: Path, step: int, units: int) -> None:
        """A LoRA for plain diffusers, or a whole pipeline."""
        self._save(folder, step, units)

    def save_repository(
        self, folder: Path, repo_id: str, step: int, units: int, results: dict[str, float] | None
    ) -> None:
        self._save(folder, step, units, repo_id=repo_id, results=results)

    def _save(self, folder: Path, step: int, units: int, **further) -> None:
        model, arguments = self.config.model, self.config.objective
        about = {
            # A folder of this machine means nothing where the student is pulled.
            "base_model": hub_name(model.base_model),
            "base_model_revision": model.base_model_revision,
            "teacher_guidance_scale": arguments.teacher_guidance_scale,
            "steps_trained": step,
            "prompts_seen": units,
        }
        whole = arguments.full_parameters or arguments.save_merged
        save = save_merged if whole else save_lora
        save(folder, self.model, self.networks.adapters, about | further)
