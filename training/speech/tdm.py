"""Trajectory distribution matching on F5-TTS's infilling task."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dtm_hf.evaluation.extras import needs
from dtm_hf.precision import computing
from dtm_hf.training.objectives.adapters import AdapterNetworks
from dtm_hf.training.objectives.arguments import TDMSpeechArguments
from dtm_hf.training.objectives.conditioning import Conditions, MelBatch, draw_conditions
from dtm_hf.training.objectives.phases import Phase, alternating_phases
from dtm_hf.training.objectives.prediction import prediction_for
from dtm_hf.training.objectives.tdm import TDM, Rollout, TDMLossOutput

# Of an utterance that is no pair, the share that a validation sample continues from.
_VALIDATION_PROMPT = 0.3


@dataclass
class WalkedBatch:
    """
    A batch that the student has walked through.

    Args:
        conditions (`dict`): arguments of the backbone beside state and time.
        mask (`torch.BoolTensor` of shape `(B, N)`): frames that enter the losses.
        rollout ([`Rollout`]): the student's trajectories.
    """

    conditions: dict[str, Any]
    mask: torch.Tensor
    rollout: Rollout


class TDMSpeechObjective:
    """
    Student and estimator see prompt and text, as a student is used: it has no null branch, so none is dropped. The
    teacher is guided by F5-TTS's rule v_c + (guidance_scale - 1) (v_c - v_u) until `teacher_guidance_end`.

    In every `update_estimator_every`-th step the estimator is updated `estimator_updates` times, and in each step the
    student once. All updates of a step share one walk of the student, each with times and noise of its own: the
    student is the same until its own update, which is the last.

    Args:
        arguments ([`TDMSpeechArguments`]): how spans are drawn, the teacher's guidance, and weights.
        networks ([`AdapterNetworks`]): around an [`F5Backbone`].
        scheduler ([`DTMScheduler`]): its grid is the student's.

    Raises:
        ImportError: if what [`judge`] measures with is not installed.
    """

    def __init__(self, arguments: TDMSpeechArguments, networks: AdapterNetworks, scheduler):
        # What the last validation needs is missed before the first step.
        with needs("dtm-hf[train]"):
            import librosa  # noqa: F401
        # Their draws are still made: a run with them off differs in nothing else.
        self.arguments = dataclasses.replace(arguments, audio_drop_prob=0.0, cond_drop_prob=0.0)
        self.networks = networks
        self.tdm = TDM(
            prediction_for(scheduler),
            networks.step_counts,
            weight=arguments.weight_type,
            huber_scale=arguments.huber_scale,
        )

    def phases(self, step: int) -> Sequence[Phase]:
        """Of the step after `step` steps."""
        return alternating_phases(self.arguments, step, estimator=self.estimator_loss, student=self.student_loss)

    def prepare(self, batch: MelBatch, generator: torch.Generator | None = None) -> WalkedBatch:
        """Draw spans and noise, and let the student walk."""
        conditions = draw_conditions(batch, self.arguments, generator)
        noise = torch.randn(batch.mel.shape, generator=generator, device=batch.mel.device)
        inputs = self._inputs(batch, conditions.cond)
        rollout = self.tdm.rollout(self._student, noise, None, inputs, generator)
        return WalkedBatch(inputs, conditions.loss_frames, rollout)

    def student_loss(
        self, _module: torch.nn.Module, batch: WalkedBatch, generator: torch.Generator | None = None
    ) -> TDMLossOutput:
        """See [`TDM.student_loss`]; has a gradient to the student alone."""
        networks = (self._student, self._estimator, self._teacher)
        return self.tdm.student_loss(*networks, batch.rollout, batch.conditions, batch.mask, generator)

    def estimator_loss(
        self, _module: torch.nn.Module, batch: WalkedBatch, generator: torch.Generator | None = None
    ) -> TDMLossOutput:
        """See [`TDM.estimator_loss`]; has a gradient to the estimator alone."""
        return self.tdm.estimator_loss(self._estimator, batch.rollout, batch.conditions, batch.mask, generator)

    @torch.no_grad()
    def sample(
        self, batch: MelBatch, num_steps: int, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, Conditions]:
        """
        The student's mel `(B, N, M)`, as long as the recordings, and what it was given: the prompt of a pair, or the
        first 30% of another utterance.
        """
        position = torch.arange(batch.mel.shape[1], device=batch.mel.device)[None]
        known = (_VALIDATION_PROMPT * batch.attention_mask.sum(dim=1)).long()
        known = torch.where(batch.prompt_frames > 0, batch.prompt_frames, known)
        span = (position >= known[:, None]) & batch.attention_mask
        dropped = torch.zeros_like(batch.prompt_frames, dtype=torch.bool)
        conditions = Conditions(span, span, batch.mel.masked_fill(span[..., None], 0.0), dropped)
        noise = torch.randn(batch.mel.shape, generator=generator, device=batch.mel.device)
        inputs = self._inputs(batch, conditions.cond)
        return self.tdm.rollout(self._student, noise, num_steps, inputs).samples, conditions

    def judge(self, batch: MelBatch, num_steps: int, generator: torch.Generator | None = None) -> dict[str, float]:
        """
        The student's samples against the recordings, as the benchmark has it
        ([`~dtm_hf.evaluation.metrics.sound.MelDistance`], [`~dtm_hf.evaluation.metrics.sound.FrameDifference`]).

        Returns:
            `dict`: `mel_distance`, lower is better, which alone would favour the mean of all that could be said; so
            beside it `frame_difference`, the movement from frame to frame over that of the recordings, whose best is
            1. Means over the utterances, and over all frames.
        """
        from dtm_hf.evaluation.metrics.sound import warped_distance

        mel, conditions = self.sample(batch, num_steps, generator)
        distances, spoken_energy, recorded_energy = [], 0.0, 0.0
        for spoken, recorded, span in zip(mel.cpu(), batch.mel.cpu(), conditions.span.cpu(), strict=True):
            spoken, recorded = spoken[span], recorded[span]
            if len(spoken) > 1:
                distances.append(warped_distance(spoken.numpy(), recorded.numpy()))
                spoken_energy += float(spoken.diff(dim=0).square().sum())
                recorded_energy += float(recorded.diff(dim=0).square().sum())
        return {
            "mel_distance": sum(distances) / max(len(distances), 1),
            "frame_difference": spoken_energy / recorded_energy if recorded_energy else 0.0,
        }

    # The networks, as `TDM` calls them

    def _inputs(self, batch: MelBatch, cond: torch.Tensor) -> dict[str, Any]:
        inputs = {"cond": cond, "attention_mask": batch.attention_mask}
        if self.networks.full_parameters:
            return inputs | {"text_ids": batch.text_ids, "durations": batch.durations}
        # No adapter changes the text encoder: all networks share what it says.
        frames, guided = batch.mel.shape[1], self.arguments.teacher_guidance_scale > 1
        with torch.no_grad(), computing(self.networks.base):
            embeds = self.networks.base.encode_text(
                batch.text_ids, batch.attention_mask, frames, guided, batch.durations
            )
        return inputs | {"text_embeds": embeds}

    def _student(self, x: torch.Tensor, t: torch.Tensor, num_steps=None, **inputs) -> torch.Tensor:
        with computing(self.networks.base):
            return self.networks.student(x, t, num_steps=num_steps, **inputs).velocity.float()

    def _estimator(self, x: torch.Tensor, t: torch.Tensor, **inputs) -> torch.Tensor:
        with computing(self.networks.base):
            return self.networks.estimator(x, t, **inputs).velocity.float()

    def _teacher_alone(self, x: torch.Tensor, t: torch.Tensor, **inputs) -> torch.Tensor:
        """The conditional branch, unguided."""
        with computing(self.networks.base):
            return self.networks.teacher(x, t, **inputs).velocity.float()

    def _teacher(self, x: torch.Tensor, t: torch.Tensor, both: bool = False, **inputs):
        """The guided velocity; with `both` the conditional branch's too."""
        scale, end = self.arguments.teacher_guidance_scale, self.arguments.teacher_guidance_end
        if scale <= 1:
            return self._teacher_alone(x, t, **inputs)
        with computing(self.networks.base):
            branches = self.networks.teacher(x, t, **inputs, branch="both").velocity.float()
        cond, null = branches.chunk(2)
        w = (scale - 1) * (t < end)
        guided = cond + w[:, None, None] * (cond - null)
        return (guided, cond) if both else guided
