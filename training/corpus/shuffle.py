"""
A shuffle of more rows than memory holds.

The rows of each source shard are stored as they come, with an index that gives each a random key: a hash of seed,
shard and row. The shuffled order is that of the keys over all shards, so any stretch of it can be gathered alone, in
any process, and is the same each time. Memory holds 8 bytes a row.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

# The lines of `index.npy`, uint64 `[4, rows]`: sorted by key, and the keys in one piece, so that a search in the
# mapped file touches few pages.
_KEY, _OFFSET, _HEADER_SIZE, _AUDIO_SIZE = range(4)


def row_key(seed: int, shard: int, row: int, group: int | None = None) -> int:
    """The 64-bit place of a row in the shuffle; of `group` 0 to 3, behind all rows of lower groups."""
    key = int.from_bytes(hashlib.blake2b(f"{seed}/{shard}/{row}".encode(), digest_size=8).digest(), "little")
    return key if group is None else group << 62 | key >> 2


def store_rows(
    folder: Path,
    seed: int,
    shard: int,
    rows: Iterable[tuple[int, dict, bytes]],
    group: Callable[[dict], int] | None = None,
) -> None:
    """
    Write `rows.bin` and `index.npy` into `folder`, which exists.

    Args:
        folder (`Path`): Where they are written; the caller sees to it that it is complete or absent.
        seed (`int`): Seed of the shuffle.
        shard (`int`): Number of the source shard.
        rows: Number of each row in its shard, what JSON can hold of it, and its encoded audio.
        group: Tells the group of a row, 0 to 3, from what JSON holds of it: groups follow one another in the shuffle.
    """
    index, offset = [], 0
    with open(folder / "rows.bin", "wb") as file:
        for row, header, audio in rows:
            head = json.dumps(header).encode()
            file.write(head)
            file.write(audio)
            index.append((row_key(seed, shard, row, group and group(header)), offset, len(head), len(audio)))
            offset += len(head) + len(audio)
    np.save(folder / "index.npy", np.array(sorted(index), np.uint64).reshape(-1, 4).T.copy())


def stretches(folders: Sequence[Path], sizes: Sequence[int]) -> list[tuple[int, int]]:
    """
    Cut the shuffled order into stretches: the first key of each, and the first key behind it.

    Args:
        folders: Every folder that [`store_rows`] wrote.
        sizes: Rows of each stretch; positive, and together all the rows there are.
    """
    keys = np.concatenate([np.load(folder / "index.npy", mmap_mode="r")[_KEY] for folder in folders])
    if sum(sizes) != len(keys) or min(sizes) < 1:
        raise ValueError(f"`sizes` must be positive and add up to {len(keys)} rows, but got {sizes}")
    keys.sort()
    starts = list(accumulate(sizes))[:-1]
    bounds = [0, *(int(keys[start]) for start in starts), 2**64]
    return list(zip(bounds, bounds[1:], strict=False))


def gather(folders: Sequence[Path], first: int, end: int) -> Iterator[tuple[dict, bytes]]:
    """Header and audio of every row whose key is at least `first` and below `end`, in the order of the keys."""
    found = []
    for number, folder in enumerate(folders):
        index = np.load(folder / "index.npy", mmap_mode="r")
        start = np.searchsorted(index[_KEY], np.uint64(first))
        stop = np.searchsorted(index[_KEY], np.uint64(end)) if end < 2**64 else index.shape[1]
        found.append(np.vstack([index[:, start:stop], np.full(stop - start, number, np.uint64)]))
    rows = np.concatenate(found, axis=1)
    # The shard's number, then the place in it, decide between equal keys, rare as they are.
    for column in np.lexsort((rows[_OFFSET], rows[-1], rows[_KEY])):
        _, offset, header_size, audio_size, number = rows[:, column].tolist()
        with open(folders[number] / "rows.bin", "rb") as file:
            file.seek(offset)
            header = json.loads(file.read(header_size))
            yield header, file.read(audio_size)
