"""`TextAligner`: how many frames of a recording each token of its text takes."""

import math

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from torch.nn import functional as F

from dtm_hf.frontend.monotonic import log_prior, monotonic_durations
from dtm_hf.frontend.timing_card import TimingCardMixin
from dtm_hf.validation import CheckedConfigMixin, LogMean, LogStd, MelBins, Tokens, Width


class TextAligner(CheckedConfigMixin, TimingCardMixin, ModelMixin, ConfigMixin):
    r"""
    Aligns text to speech without being told where a word begins ([One TTS Alignment To Rule Them
    All](https://huggingface.co/papers/2108.10447)).

    Frames and tokens are embedded by small convolutions; a frame belongs to a token with a probability that falls with
    the squared distance of the two. Training maximises the sum over all monotonic paths; [`~TextAligner.align`] takes
    the best of them.

    Args:
        num_tokens (`int`): Tokens of the vocabulary, without padding.
        mel_dim (`int`, defaults to 100): Mel bins M.
        hidden_size (`int`, defaults to 192): Width of the convolutions.
        embedding_size (`int`, defaults to 64): Width of the space in which distances are taken.
        mel_mean (`float`, defaults to -2.0), mel_std (`float`, defaults to 2.0):
            About mean and standard deviation of a log-mel, which is normalised by them.
        training_data (`str`, *optional*): What it was trained on.
    """

    card_summary = "Aligns text to recordings: the frames that each character is spoken in."

    @register_to_config
    def __init__(
        self,
        num_tokens: Tokens,
        mel_dim: MelBins = 100,
        hidden_size: Width = 192,
        embedding_size: Width = 64,
        mel_mean: LogMean = -2.0,
        mel_std: LogStd = 2.0,
        training_data: str | None = None,
    ):
        super().__init__()
        self.embed = nn.Embedding(num_tokens + 1, hidden_size, padding_idx=0)
        self.text_convs = nn.ModuleList(nn.Conv1d(hidden_size, hidden_size, 5, padding=2) for _ in range(3))
        self.text_proj = nn.Linear(hidden_size, embedding_size)
        self.mel_convs = nn.ModuleList(
            nn.Conv1d(mel_dim if i == 0 else hidden_size, hidden_size, 5, padding=2) for i in range(3)
        )
        self.mel_proj = nn.Linear(hidden_size, embedding_size)

    def forward(self, mel: torch.Tensor, mel_mask: torch.Tensor, text_ids: torch.Tensor) -> torch.Tensor:
        """
        Args:
            mel (`torch.Tensor` of shape `(B, N, M)`): log-mel.
            mel_mask (`torch.BoolTensor` of shape `(B, N)`): `True` at valid frames.
            text_ids (`torch.LongTensor` of shape `(B, L)`): token ids, padded with -1.

        Returns:
            `torch.Tensor` of shape `(B, N, L)`: log-weights of the tokens in a frame, with the prior of arXiv
            2108.10447, section 2.3; `-inf` at padding.
        """
        log_weights = self.log_weights(mel, mel_mask, text_ids)
        lengths = mel_mask.sum(1), (text_ids >= 0).sum(1)
        return log_weights + log_priors(*lengths, log_weights.shape[1:], log_weights.device)

    def log_weights(self, mel: torch.Tensor, mel_mask: torch.Tensor, text_ids: torch.Tensor) -> torch.Tensor:
        """As [`~TextAligner.forward`], of what was heard alone, without the prior."""
        text_mask = text_ids >= 0
        text = _convolved(self.embed(text_ids + 1), text_mask, self.text_convs)
        frames = (mel - self.config.mel_mean) / self.config.mel_std
        frames = _convolved(frames.masked_fill(~mel_mask[..., None], 0.0), mel_mask, self.mel_convs)
        text, frames = self.text_proj(text), self.mel_proj(frames)
        distance = (frames**2).sum(-1, keepdim=True) + (text**2).sum(-1)[:, None] - 2 * frames @ text.transpose(1, 2)
        scores = (-distance / math.sqrt(self.config.embedding_size)).masked_fill(~text_mask[:, None], -torch.inf)
        return F.log_softmax(scores, dim=-1)

    @torch.no_grad()
    def align(self, mel: torch.Tensor, mel_mask: torch.Tensor, text_ids: torch.Tensor) -> torch.Tensor:
        """
        Frames that each token takes, shape `(B, L)`: at least one, 0 at padding; they add up to the valid frames of a
        row. Where a row has fewer frames than tokens, its last tokens get none.

        Args: as of [`~TextAligner.forward`].
        """
        lengths, frames = (text_ids >= 0).sum(1), mel_mask.sum(1)
        scores = self(mel.to(self.dtype), mel_mask, text_ids)
        durations = monotonic_durations(scores.float().cpu().numpy(), frames.cpu().numpy(), lengths.cpu().numpy())
        return torch.from_numpy(durations).to(text_ids.device)


def _convolved(states: torch.Tensor, mask: torch.Tensor, convolutions: nn.ModuleList) -> torch.Tensor:
    """Convolutions over `(B, N, D)`, whatever stands behind the end of a row; with a residual where widths agree."""
    for convolution in convolutions:
        new = F.relu(convolution(states.transpose(1, 2)).transpose(1, 2)).masked_fill(~mask[..., None], 0.0)
        states = new if new.shape != states.shape else states + new
    return states


def log_priors(
    num_frames: torch.Tensor, num_tokens: torch.Tensor, shape: tuple[int, int], device: torch.device
) -> torch.Tensor:
    """The prior of each row, padded with 0 to `(B, *shape)`."""
    rows = []
    for frames, tokens in zip(num_frames.tolist(), num_tokens.tolist(), strict=True):
        prior = torch.from_numpy(log_prior(frames, tokens))
        rows.append(F.pad(prior, (0, shape[1] - tokens, 0, shape[0] - frames)))
    return torch.stack(rows).to(device)


__all__ = ["TextAligner"]
