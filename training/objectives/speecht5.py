"""What SpeechT5 is trained on: the frames to come, where it ends, and where in the text it is."""

from dataclasses import dataclass

import torch
from transformers.models.speecht5.modeling_speecht5 import SpeechT5GuidedMultiheadAttentionLoss

from dtm_hf.training.objectives.losses import LossOutput

# What transformers' loss leaves out.
_PADDING = -100.0


@dataclass(frozen=True, eq=False)
class SpeechT5Batch:
    """
    Args:
        mel (`torch.Tensor` of shape `(B, N, M)`): log-mels, N a multiple of the reduction factor.
        attention_mask (`torch.BoolTensor` of shape `(B, N)`): `True` at frames, in each row a multiple of it.
        input_ids (`torch.LongTensor` of shape `(B, L)`), text_mask (`torch.LongTensor` of shape `(B, L)`): tokens.
        speakers (`torch.Tensor` of shape `(B, E)`): embeddings.
    """

    mel: torch.Tensor
    attention_mask: torch.Tensor
    input_ids: torch.Tensor
    text_mask: torch.Tensor
    speakers: torch.Tensor


class SpeechT5Objective:
    """
    transformers' own loss: L1 before and after the post-net, cross-entropy of the end, weighted 5, and guided
    attention ([arXiv 1710.08969](https://huggingface.co/papers/1710.08969)), which keeps the attention of the first
    heads of each layer near the diagonal.
    """

    def loss(
        self, model: torch.nn.Module, batch: SpeechT5Batch, generator: torch.Generator | None = None
    ) -> LossOutput:
        """
        Loss of a batch. The dropout of the pre-net, which never ends, draws of torch's generator, or of a seed that
        `generator` gives.
        """
        if generator is not None:
            device = batch.mel.device
            seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                torch.manual_seed(seed)
                return self.loss(model, batch)
        labels = batch.mel.masked_fill(~batch.attention_mask[..., None], _PADDING)
        output = model(
            input_ids=batch.input_ids,
            attention_mask=batch.text_mask,
            speaker_embeddings=batch.speakers,
            labels=labels,
        )
        frames = batch.attention_mask.sum(dim=1)
        # Its terms are means over all frames of the batch, and are not to be had by row.
        rows = output.loss.detach().expand(len(frames))
        return LossOutput(output.loss, self._figures(output, batch), rows, frames)

    @torch.no_grad()
    def _figures(self, output, batch: SpeechT5Batch) -> dict[str, torch.Tensor]:
        distance = (output.spectrogram - batch.mel).abs().mean(dim=-1)
        figures = {"mel": distance.masked_select(batch.attention_mask).mean()}
        if output.cross_attentions:
            figures["attention"] = self.off_diagonal(output.cross_attentions, batch)
        return figures

    @staticmethod
    def off_diagonal(attentions: tuple[torch.Tensor, ...], batch: SpeechT5Batch) -> torch.Tensor:
        """
        How far the sharpest head is from the diagonal of text and time: the mean weight times its distance of guided
        attention, 0 on it.

        Args:
            attentions (`tuple[torch.Tensor]`): `(B, H, N / R, L)` of each layer.
            batch ([`SpeechT5Batch`]): what was attended to.
        """
        heads = torch.cat(attentions, dim=1)
        factor = batch.attention_mask.shape[1] // heads.shape[2]
        steps, tokens = batch.attention_mask[:, factor - 1 :: factor].sum(dim=1), batch.text_mask.sum(dim=1)
        mean = []
        for row, (count, length) in enumerate(zip(steps.tolist(), tokens.tolist(), strict=True)):
            away = SpeechT5GuidedMultiheadAttentionLoss._make_guided_attention_mask(length, count, 0.4, heads.device)
            mean.append((heads[row, :, :count, :length] * away).sum(dim=-1).mean(dim=-1).min())
        return torch.stack(mean).mean()

    def probe(self, model: torch.nn.Module, batch: SpeechT5Batch, generator: torch.Generator | None = None) -> dict:
        """Distance of the mels with a neighbour's text: the gap shows how far the text is read."""
        order = torch.arange(len(batch.input_ids), device=batch.input_ids.device).roll(1)
        wrong = SpeechT5Batch(
            batch.mel, batch.attention_mask, batch.input_ids[order], batch.text_mask[order], batch.speakers
        )
        return {"mel_wrong_text": self.loss(model, wrong, generator).figures["mel"]}
