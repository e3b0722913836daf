"""A head on a frozen backbone that is to lead where a guided teacher of many steps would: distilled, not told."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dtm_hf.backbone.closed_form import guided_at_zero
from dtm_hf.head.modeling_dtm import DTMHead
from dtm_hf.precision import computing
from dtm_hf.scheduling.scheduling_dtm import DTMScheduler
from dtm_hf.scheduling.time_grids import time_grid
from dtm_hf.training.config.arguments import TrainingConfig
from dtm_hf.training.objectives.adapters import F5_LAYERS, AdapterNetworks
from dtm_hf.training.objectives.conditioning import MelBatch
from dtm_hf.training.objectives.policy import head_answer, probe_head
from dtm_hf.training.speech.arguments import HeadStudentArguments
from dtm_hf.training.speech.components import Components, frozen_parts
from dtm_hf.training.speech.distillation import SpeechDistillation
from dtm_hf.training.speech.head import HeadTask, fitting_head
from dtm_hf.training.speech.provenance import provenance
from dtm_hf.training.speech.task import SpeechTask
from dtm_hf.training.speech.tdm import TDMSpeechObjective, WalkedBatch


def _runs_head(t: torch.Tensor, end: float, known: bool) -> torch.Tensor:
    """Where a head has a say that ends at `end`, and is spared t = 0 by a known mean: for a tensor of times."""
    return (t < end) & ((t > 0) | (not known))


class HeadMatchingObjective(TDMSpeechObjective):
    """
    Trajectory distribution matching whose student is the frozen backbone with a head: its velocity is v_k + D_k where
    the head runs, guidance in closed form at t = 0 where the mean is known, and v_k from the head's `guidance_end` on.
    An update of the student takes no gradient through the backbone; the estimator has adapters.

    Args:
        arguments ([`HeadStudentArguments`]): as of [`TDMSpeechObjective`].
        networks ([`AdapterNetworks`]): around a copy of the backbone, whose teacher they are.
        scheduler ([`DTMScheduler`]): its grid is that of the walks.
        head ([`DTMHead`]): of `prediction="guidance"`.
    """

    def __init__(
        self, arguments: HeadStudentArguments, networks: AdapterNetworks, scheduler: DTMScheduler, head: DTMHead
    ):
        super().__init__(arguments, networks, scheduler)
        self.head = head

    def prepare(self, batch: MelBatch, generator: torch.Generator | None = None) -> WalkedBatch:
        """See [`TDMSpeechObjective.prepare`]. Losses are of the steps that the head takes part in: no other learns."""
        walked = super().prepare(batch, generator)
        config, times = self.head.config, walked.rollout.times[:, :-1]
        walked.rollout.taught &= _runs_head(times, config.guidance_end, config.mean_mel is not None)
        return walked

    def _student(self, x: torch.Tensor, t: torch.Tensor, num_steps=None, **inputs) -> torch.Tensor:
        config, networks = self.head.config, self.networks
        with computing(networks.base):
            output = networks.teacher(x, t, residual_layers=config.residual_layers, **inputs)
        v = output.velocity.float()
        at, scale = t[:, None, None], self.arguments.teacher_guidance_scale
        known = config.mean_mel is not None
        learnt = _runs_head(at, config.guidance_end, known)
        answer = v
        # In an update every row needs a path to the head, for a loss without a gradient cannot go backward.
        if torch.is_grad_enabled() or learnt.any():
            answer = torch.where(learnt, head_answer(self.head, output, v, x, t, scale, inputs["attention_mask"]), v)
        if not known:
            return answer
        return torch.where(at == 0, guided_at_zero(v, x, scale, config.mean_mel, inputs["attention_mask"]), answer)

    def probe(self, batch: MelBatch, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """
        R^2 of guidance: see [`~dtm_hf.training.objectives.policy.probe_head`]. It says how far the head has gone from
        guidance, which is not what it is taught any more.
        """
        self.networks.activate("teacher")
        return probe_head(self.networks.base, self.head, batch, self.arguments.teacher_guidance_scale, generator)


@dataclass(kw_only=True)
class HeadStudentComponents(Components):
    """
    Args:
        networks ([`AdapterNetworks`]): teacher and estimator, around a copy of `backbone`.
    """

    networks: AdapterNetworks


class HeadDistillation(SpeechDistillation):
    """The head of `init_from` with an estimator beside it. What is saved is a pipeline with the head."""

    @staticmethod
    def build(config: TrainingConfig) -> HeadStudentComponents:
        return head_student_components(config)

    def groups(self) -> dict[str, dict[str, nn.Parameter]]:
        head = {name: p for name, p in self.components.head.named_parameters() if p.requires_grad}
        return {"student": head, "estimator": self.networks.parameters("estimator")}

    def validate(self, batch: MelBatch, generator: torch.Generator) -> Mapping[str, torch.Tensor | float]:
        figures = dict(super().validate(batch, generator))
        return figures | self.objective.probe(batch, generator)

    def save(self, folder: Path, step: int, units: int) -> None:
        SpeechTask.save(self, folder, step, units)

    published, record = HeadTask.published, HeadTask.record


def head_student_components(config: TrainingConfig) -> HeadStudentComponents:
    """
    Components of a run, on the CPU.

    Raises:
        ValueError: for a head that predicts something else than guidance, does not follow the teacher's scale, or
            would not run in a walk of one of the `step_counts`.
    """
    model, draws = config.model, config.objective
    parts = frozen_parts(config)
    backbone = parts["backbone"]
    about = provenance(config, backbone)
    head = fitting_head(model.init_from, model.init_from_revision, backbone)
    settings, scale = head.config, draws.teacher_guidance_scale
    if settings.prediction != "guidance":
        raise ValueError(
            f"`init_from` must be a head of `prediction` 'guidance', but that of {model.init_from!r} predicts "
            f"{settings.prediction!r}."
        )
    low, high = settings.guidance_scale_range
    if not low <= scale <= high:
        raise ValueError(
            f"`teacher_guidance_scale` must lie in [{low}, {high}], which the head of `init_from` follows, but got "
            f"{scale}."
        )
    end = settings.guidance_end if draws.head_end is None else draws.head_end
    for count in draws.step_counts:
        times = time_grid(draws.time_grid, count)[:-1]
        if not _runs_head(times, end, settings.mean_mel is not None).any():
            raise ValueError(
                f"`step_counts` must be numbers of steps of which the head takes part in one, after t = 0 and before "
                f"`head_end`, {end}, but got {count}."
            )
    scheduler = DTMScheduler(
        num_inference_steps=max(draws.step_counts), num_head_steps=1, head_solver="euler", time_grid=draws.time_grid
    )
    sampler = {name: scheduler.config[name] for name in ("num_inference_steps", "num_head_steps", "time_grid")}
    about |= {"guidance_scale": scale, "guidance_end": end, "sampler": sampler | {"head_solver": "euler"}}
    for name, value in about.items():
        setattr(settings, name, value)
    # A copy: adapters give its layers other names, and the pipeline is to save the backbone as it was.
    networks = AdapterNetworks(
        copy.deepcopy(backbone), F5_LAYERS, draws.lora_rank, draws.lora_alpha, step_counts=draws.step_counts
    )
    return HeadStudentComponents(
        **parts,
        head=head,
        scheduler=scheduler,
        trained=nn.ModuleDict({"student": head, "estimator": networks.trained["estimator"]}),
        objective=HeadMatchingObjective(draws, networks, scheduler, head),
        networks=networks,
    )
