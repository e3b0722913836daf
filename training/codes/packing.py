"""How codes lie in a column: 16 bits each, for nested lists are slow to read."""

from typing import Any

import numpy as np

from dtm_hf.training.data.rows import BadRow

# More than a book of 16 bits can tell apart no codec has.
MOST_ENTRIES = 2**15


def pack_codes(codes: np.ndarray) -> dict[str, Any]:
    """
    Codes `(K, F)` as a column holds them: `bytes`, little-endian int16, row by row, and `num_codebooks`.

    Raises:
        ValueError: for codes that 16 bits cannot hold.
    """
    if codes.size and not 0 <= codes.min() <= codes.max() < MOST_ENTRIES:
        raise ValueError(f"`codes` must lie in [0, {MOST_ENTRIES}), but got {codes.min()} to {codes.max()}.")
    return {"bytes": np.ascontiguousarray(codes, "<i2").tobytes(), "num_codebooks": len(codes)}


def unpack_codes(value: Any, num_codebooks: int, codebook_size: int) -> np.ndarray:
    """
    The first K codebooks of a column's value: what [`pack_codes`] gives, or a list of K lists or more.

    Returns:
        `np.ndarray` of shape `(K, F)`, int16.

    Raises:
        BadRow: if it holds none, too few codebooks, or codes that the codebooks do not have.
    """
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes) and isinstance(value["num_codebooks"], int):
        content, books = value["bytes"], value["num_codebooks"]
        if books < 1 or len(content) % (2 * books):
            raise BadRow("codes that are no table", f"{len(content)} bytes of {books} codebooks")
        codes = np.frombuffer(content, "<i2").reshape(books, -1)
    elif isinstance(value, list) and value and all(isinstance(book, list) for book in value):
        if len({len(book) for book in value}) > 1:
            raise BadRow("codes that are no table", f"codebooks of {sorted({len(book) for book in value})[:5]} frames")
        if not value[0]:
            raise BadRow("no codes")
        try:
            codes = np.asarray(value)
        except (ValueError, OverflowError) as error:
            raise BadRow("codes that are no numbers") from error
        if codes.dtype.kind not in "iu" or codes.ndim != 2:
            raise BadRow("codes that are no numbers")
    else:
        raise BadRow("no codes")
    if len(codes) < num_codebooks:
        raise BadRow(f"fewer than {num_codebooks} codebooks", f"{len(codes)}")
    codes = codes[:num_codebooks]
    if not codes.shape[1]:
        raise BadRow("no codes")
    if codes.min() < 0 or codes.max() >= codebook_size:
        raise BadRow("codes that the codebook lacks", f"{codes.min()} to {codes.max()} of {codebook_size}")
    return codes.astype(np.int16)
