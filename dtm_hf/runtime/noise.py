"""The noise of torch's generator on the CPU, without torch: a seed says the same in both runtimes."""

import hashlib
import math

import numpy as np

# ATen/core/DistributionsHelper.h: bits of a uniform number in float32 and in float64.
_FLOAT_BITS, _DOUBLE_BITS = 24, 53
# ATen/native/cpu/DistributionTemplates.h, `normal_fill`: drawn in blocks of 16; fewer numbers are drawn one by one.
_BLOCK = 16


class NoiseGenerator:
    """
    Standard normal numbers, those that `torch.randn` draws from `torch.Generator().manual_seed(seed)`: the same
    Mersenne twister and the same Box-Muller transform, equal to the rounding of a logarithm (3e-7).

    Args:
        seed (`int`): 0 or more; its lowest 32 bits count, as in torch.

    Raises:
        ValueError: for a seed that is no such number.
    """

    def __init__(self, seed: int):
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"`seed` must be a whole number of at least 0, but got {seed!r}.")
        # Knuth's initialization from one number, which numpy keeps for its legacy generator alone.
        self._state = np.random.RandomState(seed & 0xFFFFFFFF)._bit_generator
        self._spare: float | None = None

    def normal(self, *shape: int) -> np.ndarray:
        """Standard normal numbers of this shape, float32."""
        size = math.prod(shape)
        if size < _BLOCK:
            return np.array([self._one() for _ in range(size)], dtype=np.float32).reshape(shape)
        values = self._uniform(size)
        whole = size - size % _BLOCK
        values[:whole] = _box_muller(values[:whole])
        if whole < size:
            # The last block is drawn anew, over the end of the one before it.
            values[-_BLOCK:] = _box_muller(self._uniform(_BLOCK))
        return values.reshape(shape)

    def follower(self, *key: int) -> "NoiseGenerator":
        """
        A generator that follows from the state of this one, which stays as it is, and from a key: the one that a row
        behind the first of a call draws from, as in `dtm_hf.pipelines.batching.noise_sources`.
        """
        state = self._state.state
        high, low = self._bits(2).tolist()
        self._state.state = state
        number = (high << 32 | low) % 2**62
        digest = hashlib.blake2b(repr((number, key)).encode(), digest_size=7).digest()
        return NoiseGenerator(int.from_bytes(digest))

    def _bits(self, size: int) -> np.ndarray:
        return self._state.random_raw(size)

    def _uniform(self, size: int) -> np.ndarray:
        mask = (1 << _FLOAT_BITS) - 1
        return (self._bits(size) & mask).astype(np.float32) * np.float32(2.0**-_FLOAT_BITS)

    def _one(self) -> float:
        """One number, in double precision; every second is the sine that came with a cosine."""
        if self._spare is not None:
            value, self._spare = self._spare, None
            return value
        high_low = self._bits(4).tolist()
        first, second = (
            ((high << 32 | low) & ((1 << _DOUBLE_BITS) - 1)) * 2.0**-_DOUBLE_BITS
            for high, low in (high_low[:2], high_low[2:])
        )
        radius = math.sqrt(-2 * math.log1p(-second))
        self._spare = radius * math.sin(2 * math.pi * first)
        return radius * math.cos(2 * math.pi * first)


def _box_muller(uniform: np.ndarray) -> np.ndarray:
    """Normal numbers of uniform ones, in blocks of 16: eight radii, then eight angles."""
    blocks = uniform.reshape(-1, 2, _BLOCK // 2)
    radius = np.sqrt(-2 * np.log(1 - blocks[:, 0]))
    angle = np.float32(2 * math.pi) * blocks[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
