"""Noise of the runtime without torch: that of torch's generator."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dtm_hf.pipelines.batching import noise_sources
from dtm_hf.runtime import NoiseGenerator


@pytest.mark.parametrize("seed", [0, 7, 123456789, 2**33 + 5])
def test_a_seed_draws_what_torch_draws(seed):
    ours, theirs = NoiseGenerator(seed), torch.Generator().manual_seed(seed)
    # Few numbers are drawn in another way than many, and a size that is no multiple of 16 draws its end twice.
    for shape in ((30, 100), (37,), (16,), (3,), (5, 3), (2,), (1, 15), (101, 7)):
        expected = torch.randn(shape, generator=theirs).numpy()
        drawn = ours.normal(*shape)
        assert drawn.dtype == np.float32 and drawn.shape == shape
        np.testing.assert_allclose(drawn, expected, atol=2e-6)


def test_a_follower_is_that_of_the_pipeline():
    row = [SimpleNamespace(text_index=0, chunk_index=index) for index in (0, 1, 4)]
    theirs = noise_sources(row, torch.Generator().manual_seed(7))
    ours = NoiseGenerator(7)
    followers = [ours.follower(0, index) for index in (1, 4)]
    for mine, other in zip([ours, *followers], theirs, strict=True):
        np.testing.assert_allclose(mine.normal(40), torch.randn(40, generator=other).numpy(), atol=2e-6)


@pytest.mark.parametrize("seed", [-1, 0.5, True, "1"])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(ValueError, match="`seed`"):
        NoiseGenerator(seed)
