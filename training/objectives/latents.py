"""What TRM is trained on in its continuous mode: latents that a flow head draws from its answer."""

from dataclasses import dataclass

import torch

from dtm_hf.training.objectives.losses import LossOutput, masked_mean
from dtm_hf.training.objectives.trm import CodeBatch, TRMObjective


@dataclass
class LatentBatch(CodeBatch):
    """
    Args:
        latents (`torch.Tensor` of shape `(B, T, M)`): that the codes stand for, at mean 0 and variance 1.
    """

    latents: torch.Tensor


class LatentObjective(TRMObjective):
    """
    Difference Transition Matching with TRM as the backbone: its answer y is the features, its estimate of the mean the
    velocity, and Y the latent itself, for nothing is known of it before; t is the share of the cycles before.

    H cycles, H drawn from 1 to `num_cycles`, each go on from the one before without its gradient, and each has the
    loss ||g(y, Y_s, s, t, mean) - (Y - Y_0)||^2 and that of the mean, ||mean - Y||^2. Of the codes none is shown but a
    prompt's.

    Args:
        draws (`int`, defaults to 4): of (s, Y_0) a cycle, which share its pass.
        min_loss_remainder (`float`, defaults to 0.1): lower bound of 1 - s in the loss weight.
        given: `num_cycles`, `text_drop_prob`, `prompt_prob` and `any_number` of [`TRMObjective`].
    """

    def __init__(self, draws: int = 4, min_loss_remainder: float = 0.1, **given):
        super().__init__(feedback=True, halt_weight=0.0, **given)
        self.draws, self.min_loss_remainder = draws, min_loss_remainder

    def loss(
        self, networks: torch.nn.ModuleDict, batch: LatentBatch, generator: torch.Generator | None = None
    ) -> LossOutput:
        """
        Mean over valid frames behind a prompt, and over cycles. Rows are those of all draws and cycles, with their s.

        Args:
            networks (`torch.nn.ModuleDict`): `model`, a [`TRMModel`] with a `latent_dim`, and `head`, a [`DTMHead`].
        """
        model, head = networks["model"], networks["head"]
        text_ids, number = self.drop_text(batch, generator), len(self.draw_shown(batch, generator))
        prompt, state = self.draw_prompt(batch, generator), None
        codes = batch.codes.masked_fill(~prompt, model.config.mask_code)
        frames = (batch.audio_mask & ~prompt[:, 0]).repeat(self.draws, 1)
        losses, rows, ts, ss = [], [], [], []
        for i in range(number):
            output = model(text_ids, batch.speaker_ids, batch.audio_mask, codes, 1, state)
            mean = model.mean_latents(output.answer).float().repeat(self.draws, 1, 1)
            y = batch.latents.repeat(self.draws, 1, 1)
            s = torch.rand(len(y), generator=generator, device=y.device)
            y_0 = torch.randn(y.shape, generator=generator, device=y.device)
            y_s = (1 - s[:, None, None]) * y_0 + s[:, None, None] * y
            t = torch.full_like(s, i / number)
            mask = batch.audio_mask.repeat(self.draws, 1)
            found = head(output.answer, y_s, s, timestep=t, velocity=mean, attention_mask=mask).displacement
            # The velocity error is the displacement error over 1 - s, which is bounded: near s=1 it is all weight.
            remainder = (1 - s).clamp(min=self.min_loss_remainder)[:, None, None]
            error = ((found - y) / remainder) ** 2 + (mean - y) ** 2
            losses.append(masked_mean(error, frames))
            rows.append(masked_mean(error.detach(), frames, by_row=True))
            ts.append(t)
            ss.append(s)
            state = (output.answer.detach(), output.latent.detach())
        figures = {
            "mean_error": masked_mean((mean.detach() - y) ** 2, frames),
            "mean_displacement_error": masked_mean((found.detach() - y) ** 2, frames)
            / masked_mean((mean.detach() - y) ** 2, frames).clamp(min=1e-8),
        }
        weights = frames.sum(dim=1).repeat(number)
        return LossOutput(sum(losses) / number, figures, torch.cat(rows), weights, torch.cat(ts), torch.cat(ss))
