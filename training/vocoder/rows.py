"""Rows to batches of recordings, and the segments of them that a step sees."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from dtm_hf.training.codes.rows import WaveformMaker
from dtm_hf.training.config.arguments import DataArguments


@dataclass
class ClipBatch:
    """
    Args:
        waveforms (`torch.Tensor` of shape `(B, T)`): recordings, 0 at padding.
        lengths (`torch.LongTensor` of shape `(B,)`): samples of each.
    """

    waveforms: torch.Tensor
    lengths: torch.Tensor


def draw_segments(batch: ClipBatch, size: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Of each recording, all of at least `size` samples, a random part of so many: `(B, size)`."""
    room = batch.lengths - size
    drawn = torch.rand(len(room), generator=generator, device=room.device)
    first = (drawn * (room + 1)).long().minimum(room)
    return batch.waveforms.gather(1, first[:, None] + torch.arange(size, device=room.device))


class ClipMaker(WaveformMaker):
    """
    Makes waveforms `(T,)` of rows; shorter ones than a segment are dropped.

    Args:
        arguments ([`DataArguments`]): bounds of the length.
        sampling_rate (`int`): in Hz.
        frame_size (`int`): samples of a frame, the unit of sizes.
        segment_frames (`int`): what each clip counts for in a batch, however long it is.
    """

    def __init__(self, arguments: DataArguments, sampling_rate: int, frame_size: int, segment_frames: int):
        shortest = max(arguments.min_seconds, segment_frames * frame_size / sampling_rate)
        super().__init__(dataclasses.replace(arguments, min_seconds=shortest), sampling_rate, frame_size)
        self.segment_frames = segment_frames

    def size(self, sample: np.ndarray) -> int:
        return self.segment_frames

    def length(self, sample: np.ndarray) -> int:
        return len(sample)

    def collate(self, samples: list[np.ndarray]) -> dict[str, Any]:
        """`waveform` `(B, T)`, 0 at padding, and `num_samples` `(B,)`."""
        return {
            "waveform": pad_sequence([torch.from_numpy(sample) for sample in samples], batch_first=True),
            "num_samples": torch.tensor([len(sample) for sample in samples]),
        }
