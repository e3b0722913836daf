"""Global grids against f5_tts's own."""

import math

import pytest
import torch

from dtm_hf.f5_import import import_f5
from dtm_hf.scheduling.time_grids import EPSS_INDICES, sway, time_grid


def f5_grid(steps, use_epss, sway_sampling_coef):
    """The lines of `CFM.sample` that make its times."""
    if use_epss:
        t = import_f5("f5_tts.model.utils", chinese=False).get_epss_timesteps(steps, device="cpu", dtype=torch.float32)
    else:
        t = torch.linspace(0, 1, steps + 1)
    if sway_sampling_coef is not None:
        t = t + sway_sampling_coef * (torch.cos(torch.pi / 2 * t) - 1 + t)
    return t


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 32])
def test_equal_to_f5_tts_bit_for_bit(steps):
    assert torch.equal(time_grid("uniform", steps), f5_grid(steps, False, None))
    assert torch.equal(time_grid("sway", steps), f5_grid(steps, False, -1.0))
    assert torch.equal(time_grid("sway", steps, 0.4), f5_grid(steps, False, 0.4))
    assert torch.equal(time_grid("epss", steps), f5_grid(steps, True, -1.0))
    assert torch.equal(time_grid("epss", steps, 0.0), f5_grid(steps, True, None))


def test_epss_is_pruned_before_it_is_swayed():
    assert sorted(EPSS_INDICES) == [5, 6, 7, 10, 12, 16]
    expected = sway(torch.tensor([0, 2, 4, 6, 8, 16, 24, 32]) / 32, -1.0)
    torch.testing.assert_close(time_grid("epss", 7), expected)
    for steps, indices in EPSS_INDICES.items():
        assert len(indices) == steps + 1 and not torch.equal(time_grid("epss", steps), time_grid("sway", steps))


@pytest.mark.parametrize("name", ["uniform", "sway", "epss"])
@pytest.mark.parametrize("coefficient", [-1.0, 0.0, 1.7519])
def test_from_noise_to_data_and_never_back(name, coefficient):
    for steps in (1, 5, 8, 16, 33):
        grid = time_grid(name, steps, coefficient, dtype=torch.float64)
        assert len(grid) == steps + 1 and (grid.diff() > 0).all()
        torch.testing.assert_close(grid[[0, -1]], torch.tensor([0.0, 1.0], dtype=torch.float64))


def test_sway_has_its_closed_form():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(sway(t, -1.0), 1 - torch.cos(math.pi / 2 * t))
    assert torch.equal(sway(t, 0.0), t)


def test_unknown_grid():
    with pytest.raises(ValueError, match="`time_grid`.*'sway', 'uniform', 'epss'.*'cosine'"):
        time_grid("cosine", 4)
