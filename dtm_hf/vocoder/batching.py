"""What every vocoder does around its network: checking a batch of mels and keeping padding out of it."""

from collections.abc import Callable, Sequence

import torch


def vocode_by_length(
    vocode: Callable[[torch.Tensor], torch.Tensor],
    mel: torch.Tensor,
    lengths: torch.Tensor | Sequence[int] | None,
    *,
    num_channels: int,
    min_frames: int,
) -> torch.Tensor:
    """
    Run `vocode` on the valid frames of each item, items of one length together.

    Convolutions and overlapping windows would carry padding into the end of a shorter item; cut to its length, an item
    gives in a batch what it gives alone.

    Args:
        vocode: From mels `[b, n, M]` to waveforms `[b, t]`, with t growing with n.
        mel (`torch.Tensor` of shape `[B, N, M]`): Log-mels.
        lengths (`torch.Tensor` or sequence of shape `[B]`, *optional*): Valid frames per item; all N if left out.
        num_channels (`int`): The M that `vocode` takes.
        min_frames (`int`): The fewest frames that `vocode` takes.

    Returns:
        `torch.Tensor` of shape `[B, T]`, float32, T for the longest item; zeros past the end of an item.

    Raises:
        ValueError: if `mel` is not `[B, N, num_channels]`, or a length is below `min_frames` or above N.
    """
    if mel.ndim != 3 or mel.shape[2] != num_channels or not mel.is_floating_point():
        raise ValueError(
            f"`mel` must be floating point of shape [batch, frames, {num_channels}], but got {mel.dtype} of shape "
            f"{list(mel.shape)}."
        )
    lengths = [mel.shape[1]] * len(mel) if lengths is None else [int(length) for length in lengths]
    if not lengths or len(lengths) != len(mel):
        raise ValueError(f"`lengths` must hold one value for each of {len(mel)} items, and at least one: {lengths}.")
    if min(lengths) < min_frames or max(lengths) > mel.shape[1]:
        raise ValueError(
            f"`lengths` must be between {min_frames} and the {mel.shape[1]} frames of `mel`, but got {lengths}."
        )
    if min(lengths) == max(lengths):
        # Nothing to cut: an index of rows would make a device wait for its copy.
        return vocode(mel[:, : lengths[0]]).float()
    waveform = None
    for length in sorted(set(lengths), reverse=True):
        rows = [row for row, other in enumerate(lengths) if other == length]
        part = vocode(mel[rows, :length]).float()
        if waveform is None:
            waveform = part.new_zeros(len(mel), part.shape[1])
        waveform[rows, : part.shape[1]] = part
    return waveform
