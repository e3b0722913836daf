"""What an aligner of text and speech, and the durations that it finds, are trained on."""

import torch
from torch.nn import functional as F

from dtm_hf.training.objectives.conditioning import MelBatch
from dtm_hf.training.objectives.losses import LossOutput, masked_mean

# What a blank of CTC, which this alignment has no use for, weighs beside the tokens.
_BLANK_LOG_WEIGHT = -1.0
# Tokens of a row that are given as a prompt's: none in a fifth of the rows, at most 70%.
_LARGEST_PROMPT, _WITHOUT_PROMPT = 0.7, 0.2


def forward_sum_loss(scores: torch.Tensor, num_frames: torch.Tensor, num_tokens: torch.Tensor) -> torch.Tensor:
    """
    Minus the log-probability of all monotonic paths that give each token a frame at least, `(B,)`: the forward-sum
    objective of arXiv 2108.10447, section 2.2, as CTC with the tokens' own numbers as labels.

    Args:
        scores (`torch.Tensor` of shape `(B, N, L)`): log-weights of the tokens, `-inf` at padding.
        num_frames (`torch.LongTensor` of shape `(B,)`), num_tokens (`torch.LongTensor` of shape `(B,)`): valid ones.
    """
    log_probs = F.log_softmax(F.pad(scores, (1, 0), value=_BLANK_LOG_WEIGHT), dim=-1)
    # An infinite entry has no use in CTC beyond its label, but its gradient would be none.
    log_probs = log_probs.clamp(min=-1e4)
    labels = torch.arange(1, scores.shape[2] + 1, device=scores.device).expand(len(scores), -1)
    return F.ctc_loss(log_probs.transpose(0, 1), labels, num_frames, num_tokens, reduction="none", zero_infinity=True)


class AlignmentObjective:
    """Trains a [`TextAligner`]: all monotonic paths together."""

    def loss(self, aligner: torch.nn.Module, batch: MelBatch, generator: torch.Generator | None = None) -> LossOutput:
        """Loss of a batch, by frames; it draws nothing."""
        frames, tokens = batch.attention_mask.sum(dim=1), (batch.text_ids >= 0).sum(dim=1)
        scores = aligner(batch.mel, batch.attention_mask, batch.text_ids).float()
        rows = forward_sum_loss(scores, frames, tokens) / frames
        return LossOutput((rows * frames).sum() / frames.sum(), {}, rows.detach(), frames)

    def probe(self, aligner: torch.nn.Module, batch: MelBatch, generator: torch.Generator | None = None) -> dict:
        """Loss with a neighbour's text: the gap to the loss shows how far the text is heard."""
        wrong = MelBatch(batch.mel, batch.attention_mask, batch.text_ids.roll(1, dims=0), batch.prompt_frames)
        return {"loss_wrong_text": self.loss(aligner, wrong).loss}


class DurationsObjective:
    """Trains [`TokenDurations`] by flow matching: those of the tokens behind a prompt of random length are drawn."""

    def loss(self, network: torch.nn.Module, batch: MelBatch, generator: torch.Generator | None = None) -> LossOutput:
        """Loss of a batch, over the tokens that are to be drawn."""
        text_ids, mask = batch.text_ids, batch.text_ids >= 0
        size, device = len(text_ids), text_ids.device

        def uniform() -> torch.Tensor:
            return torch.rand(size, generator=generator, device=device)

        share = _LARGEST_PROMPT * (uniform() - _WITHOUT_PROMPT).clamp(min=0) / (1 - _WITHOUT_PROMPT)
        known_mask = _first(text_ids, (share * mask.sum(dim=1)).long())
        x_1 = network.normalize(batch.durations.float())
        x_0 = torch.randn(x_1.shape, generator=generator, device=device)
        t = uniform()
        x_t = (1 - t[:, None]) * x_0 + t[:, None] * x_1
        error = (network(x_t, t, text_ids, x_1, known_mask).float() - (x_1 - x_0))[..., None] ** 2
        drawn = mask & ~known_mask
        rows = masked_mean(error.detach(), drawn, by_row=True)
        return LossOutput(masked_mean(error, drawn), {}, rows, drawn.sum(dim=1), t)

    @torch.no_grad()
    def probe(
        self, network: torch.nn.Module, batch: MelBatch, generator: torch.Generator | None = None
    ) -> dict[str, torch.Tensor]:
        """How far off the length of the second half of a text is, given the first: mean of |log(guess / truth)|."""
        text_ids, mask = batch.text_ids, batch.text_ids >= 0
        known = batch.durations.masked_fill(~_first(text_ids, mask.sum(dim=1) // 2), 0)
        guess = network.mean(text_ids, known)
        wanted = mask & (known == 0)
        total, truth = (guess * wanted).sum(dim=1), (batch.durations * wanted).sum(dim=1)
        return {"length_error": (total / truth).log().abs().mean()}


def _first(text_ids: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """`True` at the first tokens of each row, `(B, L)`."""
    return torch.arange(text_ids.shape[1], device=text_ids.device)[None] < tokens[:, None]
