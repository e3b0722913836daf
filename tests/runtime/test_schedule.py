"""The schedule without torch against the scheduler."""

import numpy as np
import pytest
import torch

from dtm_hf import DTMScheduler
from dtm_hf.runtime.schedule import GRIDS, make_schedule
from dtm_hf.scheduling.time_grids import TIME_GRIDS


def test_every_grid_is_known():
    assert set(GRIDS) == set(TIME_GRIDS)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("steps", [1, 4, 7])
@pytest.mark.parametrize(
    ("solver", "calls"), [("euler", 3), ("midpoint", 4), ("heun", 4), ("heun", 2), ("midpoint", 1)]
)
def test_it_walks_as_the_scheduler_walks(grid, steps, solver, calls):
    scheduler = DTMScheduler(steps, calls, solver, time_grid=grid)
    schedule = make_schedule(scheduler.config)
    np.testing.assert_allclose(schedule.timesteps, scheduler.timesteps.numpy(), atol=1e-6)
    np.testing.assert_allclose(schedule.flow_times, scheduler.head_timesteps.numpy(), atol=1e-6)

    def slope(y, s):
        return y * (1 - 2 * s) + s * s

    y = torch.linspace(-1, 1, 6, dtype=torch.float32)
    walked = schedule.integrate(lambda y_s, j: slope(y_s, schedule.flow_times[j]), y.numpy())
    for s in scheduler.head_timesteps:
        y = scheduler.head_step(slope(y, s), s, y).prev_sample
    np.testing.assert_allclose(walked, y.numpy(), atol=1e-6)


@pytest.mark.parametrize("numbers", [(0, 0), (2.0, 0), (True, 0), (4, -1), (4, 3)])
def test_numbers_that_there_is_no_schedule_of_are_refused(numbers):
    with pytest.raises(ValueError, match="`num_(inference|head)_steps`"):
        make_schedule(DTMScheduler().config, *numbers)


@pytest.mark.parametrize("steps", [(10**9, 0), (8, 10**9), (1000, 100)])
def test_more_steps_than_can_be_meant_are_refused_before_any_memory_is_taken(steps):
    with pytest.raises(ValueError, match="must be at most"):
        make_schedule(dict(DTMScheduler().config), *steps)
