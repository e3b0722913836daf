"""The speech around the sampler: the rows of a batch to tensors, and sampled mels to waveforms."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from dtm_hf.frontend.audio import TARGET_RMS
from dtm_hf.frontend.tokenization_f5 import F5Tokenizer
from dtm_hf.pipelines.chunking import cross_fade
from dtm_hf.pipelines.rows import SpeechRow
from dtm_hf.pipelines.sampler import SamplingConditions
from dtm_hf.vocoder.contract import Vocoder


def collate(rows: Sequence[SpeechRow], device: torch.device) -> SamplingConditions:
    """What the sampler has to know of a batch, padded to the longest row."""
    lengths = torch.tensor([row.num_frames for row in rows])
    num_frames = int(lengths.max())
    mask = None if lengths.min() == num_frames else torch.arange(num_frames)[None] < lengths[:, None]
    cond = pad_sequence([row.reference.mel for row in rows], batch_first=True)
    text_ids = pad_sequence([row.token_ids for row in rows], batch_first=True, padding_value=F5Tokenizer.padding_value)
    durations = None
    if rows[0].durations is not None:
        durations = pad_sequence([row.durations for row in rows], batch_first=True).to(device)
    return SamplingConditions(
        durations=durations,
        cond=pad(cond, (0, 0, 0, num_frames - cond.shape[1])),
        text_ids=text_ids.to(device),
        attention_mask=None if mask is None else mask.to(device),
    )


def draw_noise(
    rows: Sequence[SpeechRow],
    sources: Sequence[torch.Generator | None],
    num_mel_bins: int,
    device: torch.device,
) -> torch.Tensor:
    """
    Standard normal `(B, N, M)`, float32; each row drawn at its own length, whatever its neighbours are.

    Args:
        rows (`list` of [`SpeechRow`]): of the batch.
        sources (`list` of `torch.Generator`): one a row.
        num_mel_bins (`int`): M.
        device (`torch.device`): where it shall be.
    """
    noises = [
        randn_tensor((row.num_frames, num_mel_bins), source, device, torch.float32)
        for row, source in zip(rows, sources, strict=True)
    ]
    return pad_sequence(noises, batch_first=True)


def cut_targets(rows: Sequence[SpeechRow], x_1: torch.Tensor) -> list[torch.Tensor]:
    """
    Log-mels `(N_i, M)` of what was to be said, from the sampled `(B, N, M)`: prompts are pasted back, as F5-TTS does,
    and cut off at the frames that it counts.
    """
    return [
        torch.cat([row.reference.mel[row.reference.num_frames :], mel[len(row.reference.mel) : row.num_frames]])
        for row, mel in zip(rows, x_1, strict=True)
    ]


def join_mels(rows: Sequence[SpeechRow], mels: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Log-mels `(N_i, M)` of whole texts, from those of their chunks."""
    return [
        torch.cat([mel for row, mel in zip(rows, mels, strict=True) if row.text_index == index])
        for index in sorted({row.text_index for row in rows})
    ]


def vocode(rows: Sequence[SpeechRow], mels: Sequence[torch.Tensor], vocoder: Vocoder) -> list[np.ndarray]:
    """Waveforms `(T_i,)` of whole texts, as loud as their recordings; chunk by chunk, for they may be many."""
    chunks: dict[int, list[np.ndarray]] = {}
    for row, mel in zip(rows, mels, strict=True):
        wave = vocoder(mel[None], lengths=torch.tensor([len(mel)]))[0].float().cpu().numpy()
        gain = min(row.reference.rms / TARGET_RMS, 1.0)
        wave = wave[: (len(mel) - 1) * vocoder.hop_length] * np.float32(gain)
        chunks.setdefault(row.text_index, []).append(wave)
    return [cross_fade(waves, vocoder.sampling_rate) for _, waves in sorted(chunks.items())]
