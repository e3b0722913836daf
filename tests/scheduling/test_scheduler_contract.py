"""What diffusers expects of each of its schedulers; betas that are trained are none of this one's."""

import inspect

import pytest
import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from dtm_hf import DTMScheduler
from dtm_hf.evaluation.schedulers import MidpointScheduler
from dtm_hf.scheduling.time_grids import time_grid

SAMPLE = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
CONFIGS = {
    "as it comes": {"num_head_steps": 0},
    "other steps": {"num_inference_steps": 50, "num_head_steps": 0},
    "heun": {"head_solver": "heun", "num_head_steps": 0},
    "uniform": {"time_grid": "uniform", "num_head_steps": 0},
    "epss": {"time_grid": "epss", "num_inference_steps": 7, "num_head_steps": 0},
    "little sway": {"sway_coefficient": -0.3, "num_head_steps": 0},
}
KINDS = pytest.mark.parametrize("kind", [DTMScheduler, MidpointScheduler])
every = pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))


def walk(scheduler, sample=SAMPLE):
    for timestep in scheduler.timesteps:
        sample = scheduler.step(0.1 * sample * (1 + timestep), timestep, sample).prev_sample
    return sample


@KINDS
@every
def test_a_loaded_one_walks_alike(kind, config, tmp_path):
    scheduler = kind(**config)
    scheduler.save_config(tmp_path)
    loaded = kind.from_pretrained(tmp_path)
    for each in (scheduler, loaded):
        each.set_timesteps(10)
    assert torch.equal(walk(scheduler), walk(loaded))
    # A second walk from the same object, and one of a copy by configuration.
    scheduler.set_timesteps(10)
    copied = kind.from_config(loaded.config)
    copied.set_timesteps(10)
    assert torch.equal(walk(scheduler), walk(copied))


@KINDS
@every
def test_the_configuration_goes_round(kind, config, tmp_path):
    scheduler = kind(**config)
    assert isinstance(scheduler, SchedulerMixin) and isinstance(scheduler.config, FrozenDict)
    scheduler.save_pretrained(tmp_path)
    kept = {name: value for name, value in scheduler.config.items() if name != "_use_default_values"}
    loaded = kind.from_pretrained(tmp_path).config
    assert {name: value for name, value in loaded.items() if name != "_use_default_values"} == kept
    assert {name: value for name, value in kind.from_config(scheduler.config).config.items() if name in kept} == kept
    assert scheduler.compatibles == [kind]


@KINDS
def test_steps_keep_the_shape_and_tuples_hold_the_same(kind):
    scheduler = kind(10, 0)
    for timestep in scheduler.timesteps[:2]:
        assert scheduler.step(0.1 * SAMPLE, timestep, SAMPLE).prev_sample.shape == SAMPLE.shape
    scheduler.set_timesteps()
    output = scheduler.step(0.1 * SAMPLE, scheduler.timesteps[0], SAMPLE)
    scheduler.set_timesteps()
    (alone,) = scheduler.step(0.1 * SAMPLE, scheduler.timesteps[0], SAMPLE, return_dict=False)
    assert torch.equal(alone, output.prev_sample) and torch.equal(output[0], alone)


@KINDS
def test_what_a_pipeline_may_ask(kind):
    scheduler = kind(10, 0)
    assert scheduler.init_noise_sigma == 1 and scheduler.order >= 1
    assert scheduler.scale_model_input(SAMPLE, 0.0).shape == SAMPLE.shape
    noised = scheduler.add_noise(SAMPLE, torch.randn(SAMPLE.shape), scheduler.timesteps[5][None])
    assert noised.shape == SAMPLE.shape
    # Keyword arguments of any name would hide a misspelt one.
    assert "kwargs" not in inspect.signature(kind.__init__).parameters and not kind._deprecated_kwargs


def test_attributes_are_its_own_or_warned_of_or_missing():
    scheduler = DTMScheduler()
    scheduler.own = 5
    scheduler.register_to_config(of_the_configuration=5)
    assert scheduler.own == 5
    with pytest.warns(FutureWarning):
        assert scheduler.of_the_configuration == 5
    with pytest.raises(AttributeError, match="'DTMScheduler' object has no attribute 'does_not_exist'"):
        scheduler.does_not_exist  # noqa: B018


# Times of the caller's own


def test_given_times_are_the_grid_of_the_run():
    times = [0.0, 0.1, 0.4, 0.7]
    scheduler = DTMScheduler(8, 2)
    scheduler.set_timesteps(timesteps=times, device="cpu")
    torch.testing.assert_close(scheduler.timesteps, torch.tensor(times))
    assert (scheduler.num_inference_steps, len(scheduler), len(scheduler.head_timesteps)) == (4, 4, 2)
    # dX/dt = 3 t^2: the left Riemann sum on these times, the last of which reaches to 1.
    scheduler.set_timesteps(4, 0, timesteps=torch.tensor(times))
    x = torch.zeros(1)
    for t in scheduler.timesteps:
        x = scheduler.step(3 * t**2 * torch.ones(1), t, x).prev_sample
    assert float(x) == pytest.approx(3 * (0.1**2 * 0.3 + 0.4**2 * 0.3 + 0.7**2 * 0.3))
    # The next run has the configured grid again.
    scheduler.set_timesteps()
    torch.testing.assert_close(scheduler.timesteps, time_grid("sway", 8)[:-1])


def test_the_grid_of_another_name_can_be_given():
    named, given = DTMScheduler(7, 0, time_grid="epss"), DTMScheduler(7, 0)
    given.set_timesteps(timesteps=named.timesteps.tolist())
    assert torch.equal(walk(named), walk(given))


def test_diffusers_own_way_to_give_times():
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import retrieve_timesteps

    scheduler = DTMScheduler(8, 0)
    timesteps, steps = retrieve_timesteps(scheduler, device="cpu", timesteps=[0.0, 0.5])
    assert steps == 2 and timesteps.tolist() == [0.0, 0.5]


@pytest.mark.parametrize("times", [[], [0.0, 0.5, 0.5], [0.5, 0.2], [-0.1, 0.5], [0.0, 1.0], [float("nan")], [[0.0]]])
def test_times_that_do_not_rise_to_one_are_refused(times):
    scheduler = DTMScheduler(4, 0)
    before = scheduler.timesteps
    with pytest.raises(ValueError, match=r"`(timesteps|num_inference_steps)` must be"):
        scheduler.set_timesteps(timesteps=times)
    assert scheduler.timesteps is before


def test_as_many_times_as_steps():
    with pytest.raises(ValueError, match="`timesteps` must be as many as `num_inference_steps`, 3, but got 2"):
        DTMScheduler(4, 0).set_timesteps(3, timesteps=[0.0, 0.5])
