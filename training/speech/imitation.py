"""A student that answers what guidance answers: the same networks as for distribution matching, another loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dtm_hf.training.objectives.conditioning import MelBatch, draw_conditions
from dtm_hf.training.objectives.losses import LossOutput, masked_mean
from dtm_hf.training.objectives.phases import Phase
from dtm_hf.training.speech.tdm import TDMSpeechObjective


@dataclass
class NoiseBatch:
    """
    What a student is to walk from.

    Args:
        conditions (`dict`): arguments of the backbone beside state and time.
        mask (`torch.BoolTensor` of shape `(B, N)`): frames that enter the loss.
        noise (`torch.Tensor` of shape `(B, N, M)`): X_0.
    """

    conditions: dict[str, Any]
    mask: torch.Tensor
    noise: torch.Tensor


class ImitationObjective(TDMSpeechObjective):
    """
    The student's velocity is to be the guided teacher's at the states of the student's own walk, in the steps before
    `imitation_end`; from there on it is its teacher, unguided. There is no estimator, and one number of steps.
    """

    def phases(self, step: int) -> Sequence[Phase]:
        return [Phase("student", self.imitation_loss)]

    def prepare(self, batch: MelBatch, generator: torch.Generator | None = None) -> NoiseBatch:
        """Draw spans and noise."""
        conditions = draw_conditions(batch, self.arguments, generator)
        noise = torch.randn(batch.mel.shape, generator=generator, device=batch.mel.device)
        return NoiseBatch(self._inputs(batch, conditions.cond), conditions.loss_frames, noise)

    def imitation_loss(
        self, _module: torch.nn.Module, batch: NoiseBatch, generator: torch.Generator | None = None
    ) -> LossOutput:
        """
        sum_k (t_{k+1} - t_k)^2 ||student - guided teacher||^2 at the states x_k of the student's own walk, over the
        sum of the squared lengths, before `imitation_end`. What is left of it, over what no change at all would
        leave, is 1 - `explained`.

        The answer that is compared is the one that the student walks on with, without a gradient through the walk: no
        pass of its is made twice, and none that is not compared.
        """
        (count,) = self.tdm.step_counts
        # Times stay numbers: to compare one that is on a GPU would wait for it.
        times = self.tdm.prediction.grid(count).tolist()
        x, total, untaught, weight = batch.noise.float(), 0.0, 0.0, 0.0
        rows, device = len(x), x.device
        counts = torch.full((rows,), count, device=device)
        for start, end in zip(times[:-1], times[1:], strict=True):
            if start >= self.arguments.imitation_end:
                break
            t, s = (torch.full((rows,), time, device=device) for time in (start, end))
            guided, plain = self._teacher(x, t, both=True, **batch.conditions)
            answer = super()._student(x, t, num_steps=counts, **batch.conditions)
            total = total + ((end - start) * (answer - guided)) ** 2
            untaught = untaught + ((end - start) * (plain - guided)) ** 2
            weight += (end - start) ** 2
            x = self.tdm.prediction.step(answer.detach(), x, t, s)
        error, mask = total / weight, batch.mask
        left = masked_mean(error.detach(), mask) / masked_mean(untaught / weight, mask).clamp(min=1e-12)
        by_row = masked_mean(error.detach(), mask, by_row=True)
        return LossOutput(masked_mean(error, mask), {"explained": 1 - left}, by_row, mask.sum(dim=1))

    def _student(self, x: torch.Tensor, t: torch.Tensor, num_steps=None, **inputs) -> torch.Tensor:
        # There is one number of steps, hence one time for all rows.
        if t.min() >= self.arguments.imitation_end:
            return self._teacher_alone(x, t, **inputs)
        return super()._student(x, t, num_steps=num_steps, **inputs)
