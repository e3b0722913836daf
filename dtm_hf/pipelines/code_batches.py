"""Around the loop of cycles: the rows of a batch to tensors, and decided codes to waveforms."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.models.mimi.modeling_mimi import MimiModel

from dtm_hf.codec.mimi import decode_codes, decode_latents
from dtm_hf.pipelines.chunking import cross_fade
from dtm_hf.pipelines.code_rows import CodeRow
from dtm_hf.trm.configuration_trm import TRMConfig


def collate_rows(rows: Sequence[CodeRow], device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Text ids `(B, L)`, speaker ids `(B,)` and valid frames `(B, T)` of a batch, padded to the longest row."""
    text_ids = pad_sequence([torch.tensor(row.token_ids) for row in rows], batch_first=True)
    lengths = torch.tensor([row.num_frames for row in rows])
    mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    return text_ids.to(device), torch.tensor([row.speaker_id for row in rows]).to(device), mask.to(device)


def known_codes(rows: Sequence[CodeRow], config: TRMConfig, device: torch.device) -> torch.Tensor | None:
    """Codes `(B, K, T)` of the recordings before the rows, the mask elsewhere; `None` if there are none."""
    if all(row.prompt is None for row in rows):
        return None
    known = torch.full((len(rows), config.num_codebooks, max(row.num_frames for row in rows)), config.mask_code)
    for i, row in enumerate(rows):
        if row.prompt is not None:
            known[i, :, : row.known_frames] = row.prompt.codes.cpu()
    return known.to(device)


def draw_random(
    rows: Sequence[CodeRow],
    sources: Sequence[torch.Generator | None],
    device: torch.device,
    shape: tuple[int, ...],
    kind: Callable[..., torch.Tensor] = torch.rand,
) -> torch.Tensor:
    """
    Numbers of a shape `(B, ..., T)`, in [0, 1), or of another `kind` such as `torch.randn`; each row's drawn at its
    own length, whatever its neighbours are.
    """
    drawn = torch.zeros(shape)
    for i, (row, source) in enumerate(zip(rows, sources, strict=True)):
        where = "cpu" if source is None else source.device
        part = kind(*shape[1:-1], row.num_frames, generator=source, device=where)
        drawn[i, ..., : row.num_frames] = part.cpu()
    return drawn.to(device)


def join_codes(rows: Sequence[CodeRow], codes: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Codes `(K, F_i)`, or latents `(M, F_i)`, of whole texts without recordings, from the rows' with them."""
    parts = [item[:, row.known_frames :] for row, item in zip(rows, codes, strict=True)]
    return [
        torch.cat([part for row, part in zip(rows, parts, strict=True) if row.text_index == index], dim=1)
        for index in sorted({row.text_index for row in rows})
    ]


def sound_of_codes(rows: Sequence[CodeRow], codes: Sequence[torch.Tensor], codec: MimiModel) -> list[np.ndarray]:
    """Waveforms `(T_i,)` of whole texts, behind a recording as loud as that; row by row, for they may be many."""
    chunks: dict[int, list[np.ndarray]] = {}
    for row, item in zip(rows, codes, strict=True):
        # With the recording before it, which the codec looks back on.
        decode = decode_latents if item.is_floating_point() else decode_codes
        wave = decode(codec, [item])[0][row.known_frames * codec.config.frame_size :].cpu().numpy()
        chunks.setdefault(row.text_index, []).append(wave * np.float32(row.gain))
    return [cross_fade(waves, codec.config.sampling_rate) for _, waves in sorted(chunks.items())]
