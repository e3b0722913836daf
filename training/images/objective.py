"""Trajectory distribution matching on text-to-image models."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dtm_hf.precision import computing
from dtm_hf.training.images.models import Conditions
from dtm_hf.training.images.networks import LatentNetworks
from dtm_hf.training.objectives.arguments import TDMArguments
from dtm_hf.training.objectives.phases import Phase, alternating_phases
from dtm_hf.training.objectives.tdm import TDM, Rollout, TDMLossOutput


@dataclass
class PromptBatch:
    """
    Args:
        prompts (`list[str]`): B of them.
        conditions (`dict`): what the networks get for them.
        pixels (`torch.Tensor` of shape `(B, 3, R, R)`, *optional*): pictures of them in [-1, 1], on the CPU.
        rollout ([`Rollout`], *optional*): the student's trajectories from noise.
    """

    prompts: list[str]
    conditions: Conditions
    pixels: torch.Tensor | None = None
    rollout: Rollout | None = None


class TDMImageObjective:
    """
    No picture is needed to train: the student starts from noise, and the teacher knows what pictures are like. Student
    and estimator are always told the prompt; the teacher is guided.

    Phases are those of [`TDMSpeechObjective`]: in every `update_estimator_every`-th step the estimator is updated
    `estimator_updates` times, and in each step the student once, after it; all share one walk of the student.

    Args:
        arguments ([`TDMArguments`]): weights, and how often the estimator is updated.
        networks ([`LatentNetworks`]): teacher, student and estimator.
    """

    def __init__(self, arguments: TDMArguments, networks: LatentNetworks):
        self.arguments, self.networks = arguments, networks
        self.tdm = TDM(
            networks.model.prediction,
            networks.adapters.step_counts,
            weight=arguments.weight_type,
            huber_scale=arguments.huber_scale,
        )

    def phases(self, step: int) -> Sequence[Phase]:
        """Of the step after `step` steps."""
        return alternating_phases(self.arguments, step, estimator=self.estimator_loss, student=self.student_loss)

    def prepare(self, batch: PromptBatch, generator: torch.Generator | None = None) -> PromptBatch:
        """Draw noise, and let the student walk."""
        noise = self.networks.model.noise(len(batch.prompts), generator)
        with computing(self.networks.model):
            rollout = self.tdm.rollout(self.networks.student, noise, None, batch.conditions, generator)
        return PromptBatch(batch.prompts, batch.conditions, batch.pixels, rollout)

    def student_loss(
        self, _module: torch.nn.Module, batch: PromptBatch, generator: torch.Generator | None = None
    ) -> TDMLossOutput:
        """See [`TDM.student_loss`]; has a gradient to the student alone."""
        networks = self.networks
        with computing(self.networks.model):
            return self.tdm.student_loss(
                networks.student,
                networks.estimator,
                networks.teacher,
                batch.rollout,
                batch.conditions,
                generator=generator,
            )

    def estimator_loss(
        self, _module: torch.nn.Module, batch: PromptBatch, generator: torch.Generator | None = None
    ) -> TDMLossOutput:
        """See [`TDM.estimator_loss`]; has a gradient to the estimator alone."""
        with computing(self.networks.model):
            return self.tdm.estimator_loss(
                self.networks.estimator, batch.rollout, batch.conditions, generator=generator
            )
