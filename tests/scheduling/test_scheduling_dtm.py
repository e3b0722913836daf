"""The two-level scheduler against closed forms: what few head calls must give, solver order, misuse."""

import math

import pytest
import torch

from dtm_hf import DTMScheduler
from dtm_hf.scheduling.time_grids import time_grid

RUNS = [("euler", 1), ("euler", 2), ("euler", 4), ("midpoint", 2), ("midpoint", 4), ("heun", 2), ("heun", 4)]


def inner_flow(scheduler, g, y):
    """Integrate dY/ds = g(Y, s) from s=0 to s=1 with the scheduler's head calls."""
    for s in scheduler.head_timesteps.tolist():
        y = scheduler.head_step(g(y, s), s, y).prev_sample
    return y


def gaussian_head(mean, std):
    """The optimal g for a posterior Y ~ N(mean, std^2): (E[Y | Y_s] - Y_s) / (1 - s)."""

    def g(y, s):
        gain = s * std**2 / ((1 - s) ** 2 + s**2 * std**2)
        return (mean + gain * (y - s * mean) - y) / (1 - s)

    return g


def test_one_euler_head_call_gives_the_mean(scheduler):
    """Identity 1: with the optimal head Y = v whatever the spread of the posterior, so the step is plain Euler."""
    generator = torch.Generator().manual_seed(0)
    y_0, v = torch.randn(2, 5, 4, 3, generator=generator, dtype=torch.float64)
    euler = DTMScheduler(head_solver="euler", num_head_steps=1)
    for std in (0.1, 1.0, 7.0):
        torch.testing.assert_close(inner_flow(euler, gaussian_head(v, std), y_0), v)
        euler.step(v, euler.timesteps[0], y_0)


@pytest.mark.parametrize(("solver", "calls"), RUNS)
def test_untrained_residual_head_is_plain_euler(make_head, solver, calls):
    """Identity 2, with the real head, over all global steps."""
    head = make_head(random_weights=False, architecture="conv")
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(100, 100, generator=generator) / 10
    x = plain = torch.randn(2, 9, 100, generator=generator)
    scheduler = DTMScheduler(5, calls, head_solver=solver)
    grid = time_grid("sway", 5)
    for i, t in enumerate(scheduler.timesteps):
        v, h = torch.tanh(x @ weight) * (1 + t), torch.randn(2, 9, 64, generator=generator)
        y = torch.randn(x.shape, generator=generator)
        for s in scheduler.head_timesteps:
            y = scheduler.head_step(head(h, y, s, timestep=t, velocity=v).velocity, s, y).prev_sample
        x = scheduler.step(y, t, x).prev_sample
        plain = plain + (grid[i + 1] - grid[i]) * torch.tanh(plain @ weight) * (1 + t)
    torch.testing.assert_close(x, plain, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("solver", "calls", "ratio"),
    [
        ("euler", 2, 0.50),
        ("euler", 4, 0.72),
        ("euler", 8, 0.85),
        ("midpoint", 2, 1.00),
        ("midpoint", 4, 0.98),
        ("midpoint", 8, 1.00),
    ],
)
def test_spread_of_few_head_calls(solver, calls, ratio):
    """
    Identity 3: realised over true standard deviation for std(Y | X_t) = 1. The head is affine in Y_s, so the whole
    inner flow is Y = a Y_0 + b: its standard deviation is a, read off two starting points; its mean b is the true one.
    """
    scheduler = DTMScheduler(num_head_steps=calls, head_solver=solver)
    starts = torch.tensor([0.0, 1.0], dtype=torch.float64)
    b, a_and_b = inner_flow(scheduler, gaussian_head(0.6, 1.0), starts).tolist()
    assert a_and_b - b == pytest.approx(ratio, rel=0.03)
    assert b == pytest.approx(0.6, abs=1e-6)


@pytest.mark.parametrize("std", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun"])
def test_many_head_calls_give_the_full_spread(solver, std):
    scheduler = DTMScheduler(num_head_steps=512, head_solver=solver)
    a = inner_flow(scheduler, gaussian_head(0.0, std), torch.ones(1, dtype=torch.float64)).item()
    assert a == pytest.approx(std, rel=0.02)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2)])
def test_order_of_the_head_solver(solver, order):
    """dY/ds = (1 + s) Y has the solution exp(s + s^2 / 2): twice the calls, 2^order less error."""

    def g(y, s):
        return (1 + s) * y

    exact = math.exp(1.5)
    errors = []
    for calls in (64, 128):
        scheduler = DTMScheduler(num_head_steps=calls, head_solver=solver)
        errors.append(abs(inner_flow(scheduler, g, torch.ones(1, dtype=torch.float64)) - exact).item())
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.15)


@pytest.mark.parametrize(("solver", "calls"), RUNS + [("euler", 50), ("midpoint", 50), ("heun", 50)])
def test_inner_times_stay_below_one(solver, calls):
    """At s=1 the residual form divides by zero."""
    scheduler = DTMScheduler(num_head_steps=calls, head_solver=solver)
    assert len(scheduler.head_timesteps) == calls
    assert scheduler.head_timesteps[0] == 0 and (scheduler.head_timesteps < 1).all()


def test_inner_times_of_each_solver():
    def times(solver, calls):
        return DTMScheduler(num_head_steps=calls, head_solver=solver).head_timesteps

    torch.testing.assert_close(times("euler", 4), torch.tensor([0.0, 0.25, 0.5, 0.75]))
    torch.testing.assert_close(times("midpoint", 4), torch.tensor([0.0, 0.25, 0.5, 0.75]))
    torch.testing.assert_close(times("heun", 4), torch.tensor([0.0, 0.5, 0.5, 0.5 + 1 / 3]))
    assert len(times("midpoint", 0)) == 0


def test_a_constant_velocity_is_integrated_exactly():
    scheduler = DTMScheduler(7, 0, time_grid="epss")
    x_0, y = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x_0
    for t in scheduler.timesteps:
        x = scheduler.step(y, t, x).prev_sample
    torch.testing.assert_close(x, x_0 + y, atol=1e-6, rtol=0)


def test_global_steps_are_first_order():
    """dX/dt = 3 t^2: the left Riemann sum on the grid, whose times are the caller's to read."""
    scheduler = DTMScheduler(6, 0)
    x = torch.zeros(1, dtype=torch.float64)
    for t in scheduler.timesteps:
        x = scheduler.step(3 * t.double() ** 2 * torch.ones(1, dtype=torch.float64), t, x).prev_sample
    grid = time_grid("sway", 6, dtype=torch.float64)
    torch.testing.assert_close(x, (3 * grid[:-1] ** 2 * grid.diff()).sum()[None], atol=1e-6, rtol=0)


def test_times_and_lengths(scheduler):
    scheduler.set_timesteps(6, 4, device="cpu")
    assert (len(scheduler), len(scheduler.timesteps), len(scheduler.head_timesteps)) == (6, 6, 4)
    assert scheduler.timesteps[0] == 0 and (scheduler.timesteps < 1).all()
    assert scheduler.init_noise_sigma == 1.0 and scheduler.order == 1 and scheduler.step_index is None
    sample = torch.ones(2)
    assert scheduler.scale_model_input(sample, 0.3) is sample
    scheduler.set_timesteps()
    assert (len(scheduler.timesteps), len(scheduler.head_timesteps)) == (4, 2)


def test_outputs_as_tuples(scheduler):
    y = torch.ones(1, 2, 3)
    (one,) = scheduler.head_step(y, 0.0, y, return_dict=False)
    (two,) = scheduler.head_step(y, 0.5, one, return_dict=False)
    (x,) = scheduler.step(two, scheduler.timesteps[0], y, return_dict=False)
    assert x.shape == y.shape and scheduler.step_index == 1


def test_add_noise():
    data, noise = torch.full((3, 2, 2), 10.0), torch.full((3, 2, 2), -2.0)
    scheduler = DTMScheduler()
    assert torch.equal(scheduler.add_noise(data, noise, 0.0), noise)
    assert torch.equal(scheduler.add_noise(data, noise, 1.0), data)
    rows = scheduler.add_noise(data, noise, torch.tensor([0.0, 0.25, 1.0]))
    torch.testing.assert_close(rows[:, 0, 0], torch.tensor([-2.0, 1.0, 10.0]))


def test_save_and_load(tmp_path):
    scheduler = DTMScheduler(6, 4, head_solver="heun", time_grid="epss", sway_coefficient=-0.5)
    scheduler.save_pretrained(tmp_path)
    loaded = DTMScheduler.from_pretrained(tmp_path)
    for name in ("num_inference_steps", "num_head_steps", "head_solver", "time_grid", "sway_coefficient"):
        assert loaded.config[name] == scheduler.config[name]
    assert torch.equal(loaded.timesteps, scheduler.timesteps)
    assert torch.equal(loaded.head_timesteps, scheduler.head_timesteps)
    longer = DTMScheduler.from_config(loaded.config, num_inference_steps=12)
    assert len(longer.timesteps) == 12 and longer.config.head_solver == "heun"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_inference_steps": 0}, "`num_inference_steps`.*at least 1.*0"),
        ({"num_inference_steps": 2.5}, "`num_inference_steps`.*integer.*2.5"),
        ({"num_inference_steps": True}, "`num_inference_steps`.*integer.*True"),
        ({"num_head_steps": -2}, "`num_head_steps`.*at least 0.*-2"),
        ({"num_head_steps": 3}, "`num_head_steps`.*even.*'midpoint'.*3"),
        ({"num_head_steps": 5, "head_solver": "heun"}, "`num_head_steps`.*even.*'heun', .*or 1.*5"),
        ({"head_solver": "rk4"}, "`head_solver`.*'midpoint', 'euler', 'heun'.*'rk4'"),
        ({"time_grid": "cosine"}, "`time_grid`.*'sway', 'uniform', 'epss'.*'cosine'"),
        ({"sway_coefficient": -1.5}, "`sway_coefficient`.*-1.5"),
        ({"sway_coefficient": 2.0}, "`sway_coefficient`.*2.0"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        DTMScheduler(**change)


@pytest.mark.parametrize("solver", ["midpoint", "euler", "heun"])
def test_one_head_call_is_a_step_of_euler_with_any_solver(solver):
    scheduler = DTMScheduler(num_head_steps=1, head_solver=solver)
    assert scheduler.head_timesteps.tolist() == [0.0]
    y_0, y = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    torch.testing.assert_close(scheduler.head_step(y - y_0, 0.0, y_0).prev_sample, y)


def test_a_refused_schedule_leaves_the_old_one(scheduler):
    before = scheduler.timesteps
    with pytest.raises(ValueError, match="even"):
        scheduler.set_timesteps(8, 3)
    assert scheduler.timesteps is before and scheduler.num_inference_steps == 4
    assert DTMScheduler(head_solver="euler", num_head_steps=3).num_head_steps == 3


def test_calls_out_of_order_are_refused(scheduler):
    y, t = torch.ones(1, 2, 3), scheduler.timesteps
    scheduler.head_step(y, 0.0, y)
    with pytest.raises(ValueError, match="1 of 2 head calls"):
        scheduler.step(y, t[0], y)
    scheduler.head_step(y, 0.5, y)
    with pytest.raises(ValueError, match="2 head calls is complete"):
        scheduler.head_step(y, 0.5, y)
    with pytest.raises(ValueError, match="`timestep` must be one of `timesteps`.*0.77"):
        scheduler.step(y, 0.77, y)
    for time in t:
        scheduler.step(y, time, y)
    with pytest.raises(ValueError, match="All 4 steps are taken"):
        scheduler.step(y, t[-1], y)
    scheduler.set_timesteps()
    scheduler.step(y, t[0], y)
