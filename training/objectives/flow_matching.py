"""F5-TTS's own objective: conditional flow matching on an infilling task."""

import torch

from dtm_hf.training.objectives.arguments import ConditioningArguments
from dtm_hf.training.objectives.conditioning import MelBatch, draw_conditions, draw_times
from dtm_hf.training.objectives.losses import LossOutput, masked_mean

# Near the noise nothing but the text says what is spoken.
_TEXT_PROBE_TIME = 0.05


class FlowMatchingObjective:
    """
    Trains a backbone: ||v(X_t, t) - (X_1 - X_0)||^2 over the frames that enter the loss.

    Args:
        arguments ([`ConditioningArguments`]): how times and conditions are drawn.
    """

    def __init__(self, arguments: ConditioningArguments):
        self.arguments = arguments

    def loss(self, backbone: torch.nn.Module, batch: MelBatch, generator: torch.Generator | None = None) -> LossOutput:
        """Loss of a batch."""
        x_1 = batch.mel
        conditions = draw_conditions(batch, self.arguments, generator)
        t = draw_times(
            self.arguments.t_sampling,
            len(x_1),
            x_1.device,
            logit_mean=self.arguments.t_logit_mean,
            generator=generator,
        )
        x_0 = torch.randn(x_1.shape, generator=generator, device=x_1.device)
        x_t = (1 - t[:, None, None]) * x_0 + t[:, None, None] * x_1
        output = backbone(
            x_t,
            t,
            conditions.cond,
            batch.text_ids,
            batch.attention_mask,
            drop_text=conditions.drop_text,
            durations=batch.durations,
        )
        error = (output.velocity.float() - (x_1 - x_0)) ** 2
        frames = conditions.loss_frames
        rows = masked_mean(error.detach(), frames, by_row=True)
        return LossOutput(masked_mean(error, frames), {}, rows, frames.sum(dim=1), t)

    @torch.no_grad()
    def probe(
        self, backbone: torch.nn.Module, batch: MelBatch, generator: torch.Generator | None = None
    ) -> dict[str, torch.Tensor]:
        """Loss near the noise with the right text and with a neighbour's: the gap is what the text explains."""
        x_1, t = batch.mel, _TEXT_PROBE_TIME
        x_0 = torch.randn(x_1.shape, generator=generator, device=x_1.device)
        x_t, silent = (1 - t) * x_0 + t * x_1, torch.zeros_like(x_1)
        figures = {}
        for name, shift in (("right_text", 0), ("wrong_text", 1)):
            text_ids = batch.text_ids.roll(shift, dims=0)
            # A neighbour's words come with their own durations, as far as the frames reach.
            durations = None if batch.durations is None else batch.durations.roll(shift, dims=0)
            v = backbone(x_t, t, silent, text_ids, batch.attention_mask, durations=durations).velocity.float()
            figures[f"loss_{name}"] = masked_mean((v - (x_1 - x_0)) ** 2, batch.attention_mask)
        return figures
