"""The best way from the first token of a text to the last through the frames of a recording. No torch in here."""

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=4096)
def log_prior(num_frames: int, num_tokens: int) -> np.ndarray:
    """
    Log-density of a token at a frame before anything has been seen, shape `(N, L)`, float32: the beta-binomial
    distribution of arXiv 2108.10447, section 2.3, which is wide in the middle and narrow at both ends.
    """
    # The logarithm of the gamma function at whole numbers, from 1 on: log_gamma[x] = log((x - 1)!).
    log_gamma = np.concatenate([[0.0, 0.0], np.log(np.arange(1, num_frames + num_tokens + 1)).cumsum()])
    n, k = num_tokens - 1, np.arange(num_tokens)[None]
    a = np.arange(1, num_frames + 1)[:, None]
    b = num_frames + 1 - a
    choose = log_gamma[n + 1] - log_gamma[k + 1] - log_gamma[n - k + 1]
    beta = log_gamma[k + a] + log_gamma[n - k + b] - log_gamma[n + a + b]
    whole = log_gamma[a] + log_gamma[b] - log_gamma[a + b]
    return (choose + beta - whole).astype(np.float32)


def monotonic_durations(scores: np.ndarray, num_frames: np.ndarray, num_tokens: np.ndarray) -> np.ndarray:
    """
    Frames of each token on the best path from the first token to the last, that stays or goes on by one in each frame
    (monotonic alignment search, arXiv 2005.11129, algorithm 1).

    Args:
        scores (`np.ndarray` of shape `(B, N, L)`): log-weights.
        num_frames (`np.ndarray` of shape `(B,)`), num_tokens (`np.ndarray` of shape `(B,)`): valid ones.

    Returns:
        `np.ndarray` of shape `(B, L)`, int64.
    """
    size, frames, tokens = scores.shape
    best = np.full((size, tokens), -np.inf, dtype=np.float32)
    best[:, 0] = scores[:, 0, 0]
    moved = np.zeros((frames, size, tokens), dtype=bool)
    for frame in range(1, frames):
        from_before = np.concatenate([np.full((size, 1), -np.inf, np.float32), best[:, :-1]], axis=1)
        moved[frame] = from_before > best
        best = np.maximum(from_before, best) + scores[:, frame]
    durations = np.zeros((size, tokens), dtype=np.int64)
    rows = np.arange(size)
    # A row with fewer frames than tokens ends at the token that its frames reach.
    token = np.minimum(num_tokens, num_frames) - 1
    for frame in range(frames - 1, -1, -1):
        valid = frame < num_frames
        durations[rows[valid], token[valid]] += 1
        token = np.where(valid & moved[frame, rows, token], token - 1, token)
    return durations
