"""What networks predict: against diffusers' own schedulers, and against Gaussians, which have a closed form."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    VQDiffusionScheduler,
)

from dtm_hf.scheduling.scheduling_dtm import DTMScheduler
from dtm_hf.training.objectives.prediction import EpsilonPrediction, VelocityPrediction, prediction_for

SDXL = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PREDICTIONS = {
    "f5": VelocityPrediction(),
    "f5_sway": VelocityPrediction(grid="sway"),
    "flux": VelocityPrediction(data_time=0, shift=3.0),
    "ddpm_linear": EpsilonPrediction(),
    "ddpm_scaled_linear": EpsilonPrediction(**SDXL),
}
# (s, t) with t noisier, in the unit of each: a step in the middle, one from near the noise, one that ends clean.
PAIRS = {
    "f5": [(0.5, 0.3), (0.25, 0.01), (1.0, 0.6)],
    "flux": [(0.5, 0.7), (0.75, 0.99), (0.0, 0.4)],
    "ddpm_linear": [(499.0, 650.0), (749.0, 998.0), (-1.0, 200.0)],
    "ddpm_scaled_linear": [(499.0, 650.0), (749.0, 998.0), (-1.0, 200.0)],
}
EVERY_PAIR = [(name, s, t) for name, pairs in PAIRS.items() for s, t in pairs]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def times(value, size=1):
    return torch.full((size,), value, dtype=torch.float64)


@pytest.mark.parametrize("prediction", PREDICTIONS.values(), ids=PREDICTIONS)
def test_the_grid_goes_from_noise_to_data_and_its_steps_are_disjoint(prediction):
    for num_steps in (1, 2, 3, 4):
        grid = prediction.grid(num_steps)
        assert grid.shape == (num_steps + 1,)
        assert (grid[0], grid[-1]) == (prediction.noise_time, prediction.data_time)
        signal = prediction.alpha(grid) / prediction.sigma(grid)
        assert (signal[1:] > signal[:-1]).all()
        share = torch.rand(1000, generator=seeded())
        for noisier, cleaner in zip(grid[:-1], grid[1:], strict=True):
            tau = prediction.between(noisier.expand(1000), cleaner.expand(1000), share)
            inside = prediction.alpha(tau) / prediction.sigma(tau)
            bounds = [prediction.alpha(edge[None]) / prediction.sigma(edge[None]) for edge in (noisier, cleaner)]
            assert (inside >= bounds[0]).all() and (inside < bounds[1]).all()


@pytest.mark.parametrize("prediction", PREDICTIONS.values(), ids=PREDICTIONS)
def test_ends_and_round_trip(prediction):
    data, noise = normal(6, 3, 5), normal(6, 3, 5, seed=1)
    assert prediction.alpha(times(prediction.data_time)) == 1 and prediction.sigma(times(prediction.data_time)) == 0
    assert prediction.sigma(times(prediction.noise_time)) == pytest.approx(1.0, abs=5e-3)
    t = prediction.grid(5).double()
    x_t = prediction.alpha(t)[:, None, None] * data + prediction.sigma(t)[:, None, None] * noise
    estimates = prediction.estimates(prediction.output(data, noise), x_t, t)
    for estimate, true in zip(estimates, (data, noise), strict=True):
        torch.testing.assert_close(estimate, true, rtol=0, atol=1e-9)


@pytest.mark.parametrize("num_steps", [1, 2, 4])
@pytest.mark.parametrize("schedule", [{}, SDXL], ids=["linear", "scaled_linear"])
def test_the_epsilon_steps_are_those_of_ddim(schedule, num_steps):
    scheduler = DDIMScheduler(**schedule, timestep_spacing="trailing", clip_sample=False)
    scheduler.set_timesteps(num_steps)
    prediction = prediction_for(scheduler)
    grid = prediction.grid(num_steps)
    assert grid[:-1].tolist() == scheduler.timesteps.tolist()
    x = ours = torch.randn(2, 4, 3, generator=seeded())
    for k in range(num_steps):
        output = torch.randn(2, 4, 3, generator=seeded(k))
        ours = prediction.step(output, ours, grid[k].expand(2), grid[k + 1].expand(2))
        x = scheduler.step(output, scheduler.timesteps[k], x).prev_sample
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_flow_steps_are_those_of_diffusers(shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / 4, 4).tolist())
    prediction = prediction_for(scheduler)
    grid = prediction.grid(4)
    torch.testing.assert_close(grid, scheduler.sigmas)
    x = ours = torch.randn(2, 4, 3, generator=seeded())
    for k in range(4):
        output = torch.randn(2, 4, 3, generator=seeded(k))
        ours = prediction.step(output, ours, grid[k].expand(2), grid[k + 1].expand(2))
        x = scheduler.step(output, scheduler.timesteps[k], x).prev_sample
    torch.testing.assert_close(ours, x)


def test_a_step_on_the_flow_of_f5_is_that_of_euler_on_the_grid_of_its_scheduler():
    scheduler = DTMScheduler(num_inference_steps=4, num_head_steps=0, time_grid="sway", sway_coefficient=-0.7)
    scheduler.set_timesteps(4)
    prediction = prediction_for(scheduler)
    torch.testing.assert_close(prediction.grid(4)[:-1], scheduler.timesteps)
    x, velocity = normal(2, 4, 3), normal(2, 4, 3, seed=1)
    stepped = prediction.step(velocity, x, times(0.2, 2), times(0.55, 2))
    torch.testing.assert_close(stepped, x + 0.35 * velocity)


def test_a_flow_does_not_get_the_betas_of_a_diffusion_schedule():
    """The states are those that the schedulers themselves make."""
    data, noise = torch.randn(3, 4, generator=seeded()), torch.randn(3, 4, generator=seeded(1))
    clean = torch.zeros(3)
    flow = FlowMatchEulerDiscreteScheduler()
    sigma = flow.sigmas[[10, 500, 990]]
    expected = flow.scale_noise(data, flow.timesteps[[10, 500, 990]], noise)
    torch.testing.assert_close(prediction_for(flow).diffuse(data, clean, sigma, noise), expected)
    ddpm, t = DDPMScheduler(**SDXL), torch.tensor([10, 500, 990])
    expected = ddpm.add_noise(data, noise, t)
    torch.testing.assert_close(prediction_for(ddpm).diffuse(data, clean - 1, t.float(), noise), expected)


@pytest.mark.parametrize(("name", "s", "t"), EVERY_PAIR)
def test_diffusing_takes_the_marginal_of_s_to_that_of_t(name, s, t):
    prediction, s, t = PREDICTIONS[name], times(s), times(t)
    one = torch.ones(1, 1, dtype=torch.float64)
    scale, beta = prediction.diffuse(one, s, t, 0 * one).item(), prediction.diffuse(0 * one, s, t, one).item()
    assert scale * prediction.alpha(s).item() == pytest.approx(prediction.alpha(t).item())
    variance = (scale * prediction.sigma(s).item()) ** 2 + beta**2
    assert variance == pytest.approx(prediction.sigma(t).item() ** 2)
    torch.testing.assert_close(prediction.diffuse(one, s, s, one), one)


@pytest.mark.parametrize(("name", "s", "t"), EVERY_PAIR)
def test_the_regression_target_is_unbiased(name, s, t):
    """
    States N(mean, std^2) that are not the marginal of anything diffuse to Gaussians whose score is known, and the best
    predictor of the target from x_t is linear: least squares has to find the output that stands for this score.
    """
    prediction, mean, std, size = PREDICTIONS[name], 0.7, 0.4, 400_000
    s, t = times(s), times(t)
    x_s, eps = mean + std * normal(size, 1), normal(size, 1, seed=1)
    # One time for all: a batch of one row.
    x_t = prediction.diffuse(x_s[None], s, t, eps[None])[0]
    target = prediction.regression_target(x_s[None], s, t, eps[None])[0]

    scale = (prediction.alpha(t) / prediction.alpha(s)).item()
    beta_square = prediction.sigma(t).item() ** 2 - (scale * prediction.sigma(s).item()) ** 2
    centre, variance = scale * mean, (scale * std) ** 2 + beta_square
    sigma_t, alpha_t = prediction.sigma(t).item(), prediction.alpha(t).item()

    def closed_form(x):
        noise = sigma_t * (x - centre) / variance
        return prediction.output((x - sigma_t * noise) / alpha_t, noise)

    design = torch.cat([x_t, torch.ones_like(x_t)], dim=1)
    fitted = torch.linalg.lstsq(design, target).solution
    spread = (target - design @ fitted).std().item()
    for x in (centre - variance**0.5, centre, centre + variance**0.5):
        at = torch.tensor([[x, 1.0]], dtype=torch.float64)
        expected = closed_form(torch.tensor(x, dtype=torch.float64)).item()
        # The standard error of a fitted line one deviation from the centre is at most sqrt(2 / size).
        assert (at @ fitted).item() == pytest.approx(expected, abs=5 * spread * (2 / size) ** 0.5)


def test_the_target_on_the_flow_of_f5_is_the_published_formula():
    prediction, x_s, eps = PREDICTIONS["f5"], normal(3, 5, 2), normal(3, 5, 2, seed=1)
    s, t = torch.tensor([0.4, 0.75, 1.0], dtype=torch.float64), torch.tensor([0.1, 0.6, 0.3], dtype=torch.float64)
    beta = ((1 - t) ** 2 - (t / s) ** 2 * (1 - s) ** 2).sqrt()
    slope = (beta**2 - (1 - t)) / (t * beta)
    expected = x_s / s[:, None, None] + slope[:, None, None] * eps
    torch.testing.assert_close(prediction.regression_target(x_s, s, t, eps), expected)
    torch.testing.assert_close(expected[2], x_s[2] - eps[2])
    torch.testing.assert_close(prediction.diffuse(x_s, s, t, eps)[2], 0.3 * x_s[2] + 0.7 * eps[2])


@pytest.mark.parametrize("name", ["f5", "flux", "ddpm_linear"])
def test_the_target_is_finite_at_the_noise_and_bounded_with_its_weight_at_the_step(name):
    prediction = PREDICTIONS[name]
    x_s, eps = normal(1, 50), normal(1, 50, seed=1)
    middle = prediction.grid(2)[1:2].double()
    noise, data = times(prediction.noise_time), times(prediction.data_time)
    assert prediction.regression_target(x_s, middle, noise, eps).isfinite().all()
    near = middle + (prediction.noise_time - middle).sign() * (1.0 if name == "ddpm_linear" else 1e-5)
    target = prediction.regression_target(x_s, middle, near, eps)
    weight = prediction.regression_weight(middle, near)
    assert 0 < weight < 0.02 and (weight.sqrt() * target).abs().max() < 6 * eps.abs().max()
    # Of clean samples it is the ordinary loss at any t.
    assert prediction.regression_weight(data, middle) == 1
    with pytest.raises(ValueError, match="`t` must be noisier than `s`"):
        prediction.regression_target(x_s, middle, middle, eps)
    with pytest.raises(ValueError, match="`t` must not be cleaner than `s`"):
        prediction.diffuse(x_s, middle, data, eps)


@pytest.mark.parametrize("prediction", PREDICTIONS.values(), ids=PREDICTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_weights_at_both_ends_and_between(prediction, dtype):
    t = prediction.grid(4).to(dtype)
    weights = {name: prediction.weight(name, t) for name in ("constant", "snr", "min_snr")}
    assert all(weight.isfinite().all() and weight.dtype == dtype for weight in weights.values())
    assert (weights["constant"] == 1).all()
    # Noise has hardly any signal (none on a flow), and data is all signal.
    assert weights["snr"][0] < 0.01 and weights["min_snr"][0] < 0.01
    assert weights["snr"][-1] == pytest.approx(1e4) and weights["min_snr"][-1] == 5
    # The ratio itself, not a ramp in t.
    ratio = (prediction.alpha(t) / prediction.sigma(t)) ** 2
    torch.testing.assert_close(weights["snr"][:-1], ratio[:-1])
    torch.testing.assert_close(weights["min_snr"][:-1], ratio[:-1].clamp(max=5.0))
    with pytest.raises(ValueError, match="`weight` must be one of .* but got 'min_snr_gamma'"):
        prediction.weight("min_snr_gamma", t)


def test_the_signal_to_noise_ratio_of_a_flow_in_numbers():
    assert PREDICTIONS["f5"].snr(times(0.75)).item() == pytest.approx(9.0)
    assert PREDICTIONS["flux"].snr(times(0.75)).item() == pytest.approx(1 / 9)
    assert PREDICTIONS["f5"].weight("min_snr", times(0.0)).item() == 0.0


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (
            DDPMScheduler(prediction_type="v_prediction"),
            "`prediction_type` of DDPMScheduler must be 'epsilon', but got",
        ),
        (PNDMScheduler(prediction_type="v_prediction"), "`prediction_type` of PNDMScheduler must be 'epsilon'"),
        (DDPMScheduler(prediction_type="sample"), "but got 'sample'; velocities are supported on flows"),
        (DDIMScheduler(beta_schedule="squaredcos_cap_v2"), "`beta_schedule` must be one of .* 'squaredcos_cap_v2'"),
        (DDIMScheduler(rescale_betas_zero_snr=True), "`rescale_betas_zero_snr` of DDIMScheduler must be off"),
        (DDPMScheduler(trained_betas=[0.1, 0.2]), "`trained_betas` of DDPMScheduler must be none"),
        (FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "`scheduler` must have no `invert_sigmas`"),
        (VQDiffusionScheduler(num_vec_classes=4), "`scheduler` must be .* but got VQDiffusionScheduler"),
        (object(), "`scheduler` must be a diffusers scheduler with betas, .* but got object"),
    ],
)
def test_what_is_not_supported_is_refused(scheduler, message):
    with pytest.raises(ValueError, match=message):
        prediction_for(scheduler)


@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler(**SDXL), LCMScheduler(**SDXL), PNDMScheduler(**SDXL)])
def test_a_scheduler_with_betas_gives_its_own_schedule(scheduler):
    t = torch.arange(1000.0)
    torch.testing.assert_close(prediction_for(scheduler).alpha(t) ** 2, scheduler.alphas_cumprod)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="`data_time` must be 1 .* but got 2"):
        VelocityPrediction(2)
    with pytest.raises(ValueError, match="`shift` must be greater than 0, but got 0"):
        VelocityPrediction(shift=0)
    with pytest.raises(ValueError, match="`time_grid` must be one of .* but got 'even'"):
        VelocityPrediction(grid="even")
    assert prediction_for(FlowMatchEulerDiscreteScheduler(shift=3.0), shift=1.0).grid(2).tolist() == [1.0, 0.5, 0.0]
