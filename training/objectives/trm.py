"""What TRM is trained on: codes that are hidden as its decoding leaves them undecided."""

from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from dtm_hf.scheduling.scheduling_masking import MaskingScheduler
from dtm_hf.training.objectives.losses import LossOutput

# What a target is that enters no loss; 0 is a code like any other.
NO_TARGET = -100
# The character that the vocabulary lacks stands in the place of a dropped text.
_UNKNOWN = 1


@dataclass
class CodeBatch:
    """
    Args:
        text_ids (`torch.LongTensor` of shape `(B, L)`): characters, 0 at padding.
        speaker_ids (`torch.LongTensor` of shape `(B,)`): voices.
        codes (`torch.LongTensor` of shape `(B, K, T)`): of the recordings; any at padding.
        audio_mask (`torch.BoolTensor` of shape `(B, T)`): `True` at valid frames.
    """

    text_ids: torch.Tensor
    speaker_ids: torch.Tensor
    codes: torch.Tensor
    audio_mask: torch.Tensor


def codebook_weights(num_codebooks: int) -> torch.Tensor:
    """
    Weights of the books' losses, `(K,)`, mean 1: the first twice, the next seven from 1.43 down to 1, the rest 1, all
    over their mean.
    """
    index = torch.arange(num_codebooks, dtype=torch.float32)
    weights = torch.where(index == 0, 2.0, (1.5 - 0.5 * index / 7).clamp(min=1.0))
    return weights / weights.mean()


class TRMObjective:
    """
    Cross-entropy of the codes that are hidden from the network, of all books.

    With `feedback` a batch goes through H cycles as the decoding does, H drawn from 1 to `num_cycles`: before the
    first no code is shown, before the others as many as their predecessors would have decided, by the scheduler's law.
    Every cycle goes on from the answer and the latent of the one before, without its gradient, with a loss of its own.
    Without `feedback` none is ever shown and the loss is of the last cycle, in `num_supervisions` rounds of that kind:
    one of them in the document's form.

    The halt head learns with each of these losses whether the likeliest codes are right where a row is still open, so
    that its cycles could end there (binary cross-entropy, Tiny Recursive Models, section 4). TRM asks for all of an
    answer; of thousands of codes that never comes, so that here a share of them is enough.

    Args:
        feedback (`bool`, defaults to `True`): whether decided codes are shown.
        num_cycles (`int`, defaults to 3): H, the most that a decoding will take.
        num_supervisions (`int`, defaults to 1): rounds without feedback.
        text_drop_prob (`float`, defaults to 0.1): share of the rows without their text, for guidance.
        prompt_prob (`float`, defaults to 0.0): share of the rows whose beginning, up to half of it, is shown from the
            first cycle on, as that of a recording to go on from.
        any_number (`bool`, defaults to `True`): whether H is drawn; else it is `num_cycles`.
        halt_weight (`float`, defaults to 0.5): of the halt head's loss; at 0 it is not trained.
        halt_accuracy (`float`, defaults to 1.0): share of the open codes from which on an answer counts as right.
        silent_share (`float`, defaults to 0.0): that of the scheduler, with `feedback`.
    """

    def __init__(
        self,
        feedback: bool = True,
        num_cycles: int = 3,
        num_supervisions: int = 1,
        text_drop_prob: float = 0.1,
        prompt_prob: float = 0.0,
        any_number: bool = True,
        halt_weight: float = 0.5,
        halt_accuracy: float = 1.0,
        silent_share: float = 0.0,
    ):
        self.feedback, self.num_cycles, self.any_number = feedback, num_cycles, any_number
        self.num_supervisions, self.text_drop_prob, self.prompt_prob = num_supervisions, text_drop_prob, prompt_prob
        self.halt_weight, self.halt_accuracy = halt_weight, halt_accuracy
        self.scheduler = MaskingScheduler(silent_share=silent_share)

    def loss(self, model: torch.nn.Module, batch: CodeBatch, generator: torch.Generator | None = None) -> LossOutput:
        """
        Mean over the hidden codes of valid frames, weighted by book, and over cycles; to the loss of a row that of its
        halting is added. Rows are those of all cycles, whose `t` is the share of the cycles before; figures are of
        the last.
        """
        text_ids = self.drop_text(batch, generator)
        rounds, state, losses, shares, times, figures = self.draw_shown(batch, generator), None, [], [], [], {}
        prompt = self.draw_prompt(batch, generator)
        for i, shown in enumerate(rounds):
            shown = shown | prompt
            codes = batch.codes.masked_fill(~shown, model.config.mask_code)
            targets = batch.codes.masked_fill(~batch.audio_mask[:, None] | shown, NO_TARGET)
            cycles = 1 if self.feedback else self.num_cycles
            output = model(text_ids, batch.speaker_ids, batch.audio_mask, codes, cycles, state)
            rows, weight, right = self._cross_entropy(model, output.answer, targets)
            hidden = (targets != NO_TARGET).sum(dim=(1, 2))
            figures = {"accuracy": right.sum() / hidden.sum().clamp(min=1)}
            if self.halt_weight > 0:
                # Halting is for all that is open, and a row without an open code may always halt.
                over = (right >= self.halt_accuracy * hidden).float()
                halting = F.binary_cross_entropy_with_logits(output.halt_logits.float(), over, reduction="none")
                figures |= {"halt_loss": halting.detach().mean(), "halt_share": over.mean()}
                rows = rows + self.halt_weight * halting
            losses.append(rows)
            # Each cycle counts as much as another, however many codes are hidden by then.
            shares.append(weight / weight.sum().clamp(min=1e-8))
            times.append(torch.full_like(rows.detach(), i / len(rounds)))
            state = (output.answer.detach(), output.latent.detach())
        rows, shares = torch.cat(losses), torch.cat(shares)
        return LossOutput((rows * shares).sum() / len(rounds), figures, rows.detach(), shares, torch.cat(times))

    def drop_text(self, batch: CodeBatch, generator: torch.Generator | None = None) -> torch.Tensor:
        """Text ids `(B, L)`, of some rows without the text."""
        dropped = torch.rand(len(batch.codes), generator=generator, device=batch.codes.device) < self.text_drop_prob
        return torch.where(dropped[:, None] & (batch.text_ids != 0), _UNKNOWN, batch.text_ids)

    def draw_prompt(self, batch: CodeBatch, generator: torch.Generator | None = None) -> torch.Tensor:
        """Codes that are shown as a recording's, `(B, 1, T)`."""
        if self.prompt_prob == 0:
            return torch.zeros_like(batch.audio_mask)[:, None]
        device, lengths = batch.codes.device, batch.audio_mask.sum(dim=1)
        whether, how_much = torch.rand(2, len(lengths), generator=generator, device=device)
        first = (0.5 * how_much * lengths).long() * (whether < self.prompt_prob)
        return (torch.arange(batch.audio_mask.shape[1], device=device) < first[:, None])[:, None]

    def draw_shown(self, batch: CodeBatch, generator: torch.Generator | None = None) -> list[torch.Tensor]:
        """Codes that are shown before each cycle, `(B, K, T)`: coarse books first, of a book in part random frames."""
        shape, lengths, device = batch.codes.shape, batch.audio_mask.sum(dim=1), batch.codes.device
        if not self.feedback:
            return [torch.zeros(shape, dtype=torch.bool, device=device)] * self.num_supervisions
        number = self.num_cycles
        if self.any_number:
            number = int(torch.randint(1, self.num_cycles + 1, (), generator=generator, device=device))
        order = torch.rand(shape, generator=generator, device=device).masked_fill(~batch.audio_mask[:, None], 2.0)
        rank = order.argsort(dim=-1).argsort(dim=-1)
        self.scheduler.set_timesteps(number)
        shares = [0.0, *(self.scheduler.decided_share(i) for i in range(number - 1))]
        return [rank < MaskingScheduler.counts_of(share, shape[1], lengths)[..., None] for share in shares]

    @staticmethod
    def _cross_entropy(model, answer, targets) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of each row `(B,)`: its mean loss, what it weighs, and how many of its targets the likeliest codes are."""
        weights = codebook_weights(targets.shape[1]).to(answer.device)
        total = torch.zeros(len(answer), device=answer.device)
        weight, right = total.clone(), total.clone()
        # A book at a time: the logits of all are gigabytes.
        for k, book_weight in enumerate(weights):
            logits, target = model.logits(answer, k).float(), targets[:, k]
            losses = F.cross_entropy(logits.transpose(1, 2), target, ignore_index=NO_TARGET, reduction="none")
            wanted = target != NO_TARGET
            total = total + book_weight * losses.sum(dim=1)
            weight = weight + book_weight * wanted.sum(dim=1)
            right = right + ((logits.detach().argmax(dim=-1) == target) & wanted).sum(dim=1)
        return total / weight.clamp(min=1e-8), weight, right

    def probe(self, model: torch.nn.Module, batch: CodeBatch, generator: torch.Generator | None = None) -> dict:
        """Loss with a neighbour's text: the gap to the loss shows how far the text is read."""
        wrong = replace(batch, text_ids=batch.text_ids.roll(1, dims=0))
        return {"loss_wrong_text": self.loss(model, wrong, generator).loss}
