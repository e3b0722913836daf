"""Text in the rhythm of the speech: each token's embedding stands in the frames that the token is spoken in."""

from typing import Literal

import torch
from torch import nn

TextAlignment = Literal["uniform", "durations"]


def repeat_tokens(embeds: torch.Tensor, durations: torch.Tensor, num_frames: int) -> torch.Tensor:
    """
    Each token repeated for its frames, in the place of an even spread.

    Args:
        embeds (`torch.Tensor` of shape `(B, L, D)`): embedded tokens.
        durations (`torch.LongTensor` of shape `(B, L)`): frames that each lasts; 0 at padding.
        num_frames (`int`): N; what is spoken beyond is cut off.

    Returns:
        `torch.Tensor` of shape `(B, N, D)`, zero behind the last token.
    """
    ends = durations.cumsum(dim=1)
    frames = torch.arange(num_frames, device=ends.device).expand(len(ends), -1).contiguous()
    token = torch.searchsorted(ends, frames, right=True)
    last = embeds.shape[1] - 1
    index = token.clamp(max=last)[..., None].expand(-1, -1, embeds.shape[-1])
    return embeds.gather(1, index).masked_fill((token > last)[..., None], 0.0)


def embed_tokens(text_embed: nn.Module, text_ids: torch.Tensor) -> torch.Tensor:
    """What F5's text encoder makes of each token: ids `(B, L)`, padded with -1, to `(B, L, D)`."""
    lengths = (text_ids >= 0).sum(dim=1)
    if text_embed.training:
        # As F5-TTS trains: one pass, in which the normalisation sees the padding of the batch.
        return text_embed(text_ids, seq_len=lengths)
    weight = text_embed.text_embed.weight
    embeds = torch.zeros((*text_ids.shape, weight.shape[1]), dtype=weight.dtype, device=text_ids.device)
    for length in lengths.unique().tolist():
        rows = lengths == length
        embeds[rows, :length] = text_embed(text_ids[rows, :length], length)
    return embeds


def check_alignment(alignment: str, average_upsampling: bool, mask_padding: bool) -> None:
    """
    Raises:
        ValueError: for an alignment that is none, or that the DiT's own options are at odds with.
    """
    if alignment not in ("uniform", "durations"):
        raise ValueError(f'`text_alignment` must be "uniform" or "durations", but got {alignment!r}.')
    if alignment == "durations" and (average_upsampling or not mask_padding):
        raise ValueError(
            '`text_alignment` "durations" needs `text_mask_padding` and stands in the place of '
            "`text_embedding_average_upsampling`."
        )


def check_durations(durations: torch.Tensor | None, text_ids: torch.Tensor, aligned: bool) -> None:
    """
    Raises:
        ValueError: if `durations` are missing or not asked for, or of another shape than `text_ids`.
    """
    if not aligned and durations is not None:
        raise ValueError('`durations` are for a backbone whose `text_alignment` is "durations".')
    if aligned and (durations is None or durations.shape != text_ids.shape):
        came = "none" if durations is None else tuple(durations.shape)
        raise ValueError(
            f"`durations` must have the shape of `text_ids`, {tuple(text_ids.shape)}, for this backbone is told how "
            f"long each token lasts, but got {came}."
        )
