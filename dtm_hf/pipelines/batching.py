"""How many rows run at once, and where each has its noise from: so that neither changes what a row becomes."""

import hashlib
from collections.abc import Sequence

import torch

from dtm_hf.backbone.contract import Backbone
from dtm_hf.pipelines.rows import SpeechRow

# About what the widest layers of an F5-TTS network hold at once for a frame, in numbers as wide as its features:
# measured on v1_small, which takes 390 MiB for the 2063 frames of a chunk.
_WIDTHS_PER_FRAME = 64
# More rows at once than these make no accelerator faster.
_MOST_FRAMES = 32768


def default_batch_frames(backbone: Backbone, device: torch.device) -> int:
    """
    Frames, padding included, that are sampled at once: on an accelerator as many as half of its free memory holds,
    both branches of guidance counted. On a CPU each row by itself: it is as busy with one as with many.
    """
    if device.type == "cpu":
        return 1
    if device.type != "cuda":
        return backbone.max_frames
    width = _WIDTHS_PER_FRAME * backbone.config.dim * torch.empty(0, dtype=backbone.dtype).element_size()
    return min(int(0.5 * torch.cuda.mem_get_info(device)[0] / (2 * width)), _MOST_FRAMES)


def split_batches(rows: Sequence[SpeechRow], max_batch_frames: int) -> list[range]:
    """
    Indices of the rows of each batch, in order: as many as take at most `max_batch_frames`, padded to the longest; a
    row that is longer by itself runs alone.

    Raises:
        ValueError: for a `max_batch_frames` that is no whole number of at least 1.
    """
    if not isinstance(max_batch_frames, int) or max_batch_frames < 1:
        raise ValueError(
            f"`max_batch_frames` must be a whole number of frames, at least 1, but got {max_batch_frames!r}."
        )
    starts, longest = [0], 0
    for index, row in enumerate(rows):
        longest = max(longest, row.num_frames)
        if index > starts[-1] and longest * (index + 1 - starts[-1]) > max_batch_frames:
            starts.append(index)
            longest = row.num_frames
    return [range(start, stop) for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True)]


def noise_sources(
    rows: Sequence[SpeechRow], generator: torch.Generator | list[torch.Generator] | None
) -> list[torch.Generator | None]:
    """
    The generator that each row draws its noise from: the first row of a text the text's own, or the first row of a
    call the call's; any other row one that follows from its state and from which row it is.
    """
    if generator is None:
        return [None] * len(rows)
    keys, owners = [], []
    for row in rows:
        owner = generator[row.text_index] if isinstance(generator, list) else generator
        first = [other is owner for other in generator].index(True) if isinstance(generator, list) else 0
        keys.append((row.text_index - first, row.chunk_index))
        owners.append(owner)
    drawn: dict[int, int] = {}
    # Before a first row draws, and without taking a number from it: it is to draw what F5-TTS draws.
    for owner in {id(owner): owner for owner in owners}.values():
        first = any(other is owner and not any(key) for key, other in zip(keys, owners, strict=True))
        source = torch.Generator(owner.device).set_state(owner.get_state()) if first else owner
        drawn[id(owner)] = int(torch.randint(2**62, (), generator=source, device=owner.device))
    return [
        _follower(owner, drawn[id(owner)], key) if any(key) else owner for key, owner in zip(keys, owners, strict=True)
    ]


def _follower(owner: torch.Generator, number: int, key: tuple[int, ...]) -> torch.Generator:
    digest = hashlib.blake2b(repr((number, key)).encode(), digest_size=7).digest()
    return torch.Generator(owner.device).manual_seed(int.from_bytes(digest))
