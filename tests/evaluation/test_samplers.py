"""Arms through the pipeline's loop: against the pipeline itself, hand-written integration, and f5_tts's sampler."""

import numpy as np
import pytest
import torch
from tiny import SAMPLING_RATE, voice

from dtm_hf import DTMScheduler
from dtm_hf.evaluation.arms import parse_arm
from dtm_hf.evaluation.controls import noisy_end, renoise
from dtm_hf.evaluation.metric import BenchmarkItem
from dtm_hf.evaluation.samplers import mounted, run_arm
from dtm_hf.evaluation.schedulers import AdamsBashforthScheduler, DPMSolverScheduler, MidpointScheduler
from dtm_hf.scheduling.time_grids import time_grid

PROMPT, SAID = voice(1.2), "some words. "
ITEMS = [
    BenchmarkItem("a", "what else is there to say", PROMPT, SAID),
    BenchmarkItem("b", "a text that is longer than the other one is", voice(0.9, pitch=200), SAID),
]
SEEDS = [11, 12]
# With the 50 ms of silence that end a prompt.
PROMPT_FRAMES = (len(PROMPT) + 1200) // 256


def mels(pipeline, name, items=ITEMS, seeds=SEEDS, **kwargs):
    return run_arm(pipeline, parse_arm(name), items, SAMPLING_RATE, seeds, output_type="mel", **kwargs).audios


def pipeline_mels(pipeline, **kwargs):
    """The same through the pipeline alone."""
    return pipeline(
        [item.text for item in ITEMS],
        [(item.reference_audio, SAMPLING_RATE) for item in ITEMS],
        [item.reference_text for item in ITEMS],
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="mel",
        max_batch_frames=10**9,
        **kwargs,
    ).audios


def assert_same(ours, theirs, atol=0.0):
    for one, other in zip(ours, theirs, strict=True):
        assert other.std() > 0.1
        torch.testing.assert_close(one, other, atol=atol, rtol=0)


@pytest.mark.parametrize(
    ("name", "grid", "steps", "calls", "guidance_scale"),
    [
        ("euler-4", "sway", 4, 0, 3.0),
        ("sway-4@1", "sway", 4, 0, 1.0),
        ("uniform-4@1.5", "uniform", 4, 0, 1.5),
        ("epss-5", "epss", 5, 0, 3.0),
        ("dtm-3x2", "sway", 3, 2, 3.0),
        ("dtm-3x2@1", "sway", 3, 2, 1.0),
    ],
)
def test_arms_that_the_pipeline_has_itself(tiny_pipeline, name, grid, steps, calls, guidance_scale):
    ours = mels(tiny_pipeline, name)
    tiny_pipeline.scheduler = DTMScheduler(time_grid=grid)
    theirs = pipeline_mels(
        tiny_pipeline, num_inference_steps=steps, num_head_steps=calls, guidance_scale=guidance_scale
    )
    assert_same(ours, theirs)


def test_the_head_keeps_the_grid_and_solver_of_the_pipeline(tiny_pipeline):
    tiny_pipeline.scheduler = DTMScheduler(time_grid="uniform", head_solver="euler")
    assert_same(mels(tiny_pipeline, "dtm-2x3"), pipeline_mels(tiny_pipeline, num_inference_steps=2, num_head_steps=3))


@pytest.mark.parametrize("guidance_scale", [1, 3])
def test_midpoint_is_the_midpoint_rule(tiny_pipeline, guidance_scale):
    ours = mels(tiny_pipeline, f"midpoint-2@{guidance_scale}", ITEMS[:1], SEEDS[:1])[0]
    (item,) = tiny_pipeline.prepare(ITEMS[0].text, (PROMPT, SAMPLING_RATE), SAID)
    x = tiny_pipeline.prepare_latents([item], torch.Generator().manual_seed(SEEDS[0]))
    reference, ids = item.reference, item.token_ids[None]
    prompt = len(reference.mel)
    cond = torch.nn.functional.pad(reference.mel, (0, 0, 0, item.num_frames - prompt))[None]

    def velocity(x, t):
        v = tiny_pipeline.backbone(x, t, cond, ids).velocity
        return v + (guidance_scale - 1) * (v - tiny_pipeline.backbone(x, t, cond, ids, branch="null").velocity)

    grid = time_grid("sway", 2)
    for t, after in zip(grid[:-1], grid[1:], strict=True):
        step = after - t
        x = x + step * velocity(x + step / 2 * velocity(x, t), t + step / 2)
    torch.testing.assert_close(ours[prompt - PROMPT_FRAMES :], x[0, prompt:], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["analytic-3+1@2", "zerostar-3@2", "reuse-3@2"])
def test_rules_of_guidance_are_those_of_their_papers(tiny_pipeline, name):
    """Written out for one utterance, w = 1; on three steps the second of `reuse` has no null branch of its own."""
    tiny_pipeline.register_to_config(mean_mel=torch.linspace(-3, 1, 100).tolist())
    ours = mels(tiny_pipeline, name, ITEMS[:1], SEEDS[:1])[0]
    x, velocities = by_hand(tiny_pipeline)
    grid = time_grid("sway", 3)
    mean = torch.tensor(tiny_pipeline.config.mean_mel)
    for i, (t, after) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
        cond, null = velocities(x, t)
        if name.startswith("analytic"):
            difference = [cond - (mean - x), cond - null, 0][i]
        elif name.startswith("zerostar"):
            difference = cond - null * (cond * null).sum() / (null * null).sum()
        elif i != 1:
            difference = cond - null
        x = x + (after - t) * (cond + difference)
    torch.testing.assert_close(ours[1:], x[0, -len(ours) + 1 :], atol=1e-4, rtol=0)


def by_hand(pipeline):
    """The noise of the first item, and a function of X_t and t that gives the velocities of both branches."""
    (row,) = pipeline.prepare(ITEMS[0].text, (PROMPT, SAMPLING_RATE), SAID)
    x = pipeline.prepare_latents([row], torch.Generator().manual_seed(SEEDS[0]))
    cond = torch.nn.functional.pad(row.reference.mel, (0, 0, 0, row.num_frames - len(row.reference.mel)))[None]

    @torch.no_grad()
    def velocities(x, t):
        return [pipeline.backbone(x, t, cond, row.token_ids[None], branch=b).velocity for b in ("cond", "null")]

    return x, velocities


def walk(scheduler):
    """Along dx/dt = sin(3 t) - x from x(0) = 1."""
    x = torch.tensor([1.0], dtype=torch.float64)
    for t in scheduler.timesteps.double():
        x = scheduler.step(torch.sin(3 * t) - x, t, x).prev_sample
    return float(x)


def test_adams_bashforth_is_of_second_order():
    """Half the step, a quarter of the error; Euler halves it."""

    def error(kind, steps):
        # The solution: (sin 3t - 3 cos 3t) / 10 + c e^-t.
        exact = (np.sin(3) - 3 * np.cos(3)) / 10 + (1 + 0.3) * np.exp(-1)
        return abs(walk(kind(num_inference_steps=steps, num_head_steps=0, time_grid="uniform")) - exact)

    assert error(AdamsBashforthScheduler, 64) / error(AdamsBashforthScheduler, 128) == pytest.approx(4, rel=0.15)
    assert error(DTMScheduler, 64) / error(DTMScheduler, 128) == pytest.approx(2, rel=0.15)


def test_dpm_solver_is_that_of_diffusers():
    from diffusers import DPMSolverMultistepScheduler

    theirs = DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", final_sigmas_type="zero", flow_shift=1.0
    )
    theirs.set_timesteps(6)
    # From 0.001 on: at t = 0 there is no logarithm.
    times = (1 - theirs.sigmas[:-1]).tolist()
    ours = DPMSolverScheduler(num_head_steps=0)
    ours.set_timesteps(timesteps=times)
    x = torch.tensor([1.0], dtype=torch.float64)
    for step in theirs.timesteps:
        t = torch.tensor(times[theirs.step_index or 0], dtype=torch.float64)
        # Its velocity goes from the data to the noise.
        x = theirs.step(x - torch.sin(3 * t), step, x).prev_sample
    assert walk(ours) == pytest.approx(float(x), abs=1e-6)


@pytest.mark.parametrize("name", ["ab2-1", "dpmpp-2"])
def test_the_first_steps_of_multistep_solvers_are_of_euler(tiny_pipeline, name):
    assert_same(mels(tiny_pipeline, name), mels(tiny_pipeline, f"euler-{name[-1]}"))


def test_midpoint_is_that_of_f5(tiny_pipeline):
    from dtm_hf.f5_import import import_f5

    cfm = import_f5("f5_tts.model.cfm").CFM(
        transformer=tiny_pipeline.backbone.dit,
        num_channels=100,
        mel_spec_kwargs={},
        odeint_kwargs={"method": "midpoint"},
    )
    (item,) = tiny_pipeline.prepare(ITEMS[0].text, (PROMPT, SAMPLING_RATE), SAID)
    theirs, _ = cfm.sample(
        cond=item.reference.mel[None],
        text=item.token_ids[None],
        duration=item.num_frames,
        steps=4,
        cfg_strength=2.0,
        sway_sampling_coef=-1.0,
        seed=SEEDS[0],
        use_epss=False,
    )
    ours = mels(tiny_pipeline, "midpoint-4", ITEMS[:1], SEEDS[:1])
    assert_same(ours, [theirs[0, PROMPT_FRAMES:]], atol=1e-4)


@pytest.mark.parametrize(
    ("control", "plain"), [("renoise-4:0", "euler-4"), ("noise-4:0", "euler-4"), ("noise-5:0", "epss-5")]
)
def test_controls_of_no_strength_are_euler(tiny_pipeline, control, plain):
    assert_same(mels(tiny_pipeline, control), mels(tiny_pipeline, plain))


def test_noise_has_its_spread_and_spares_the_prompt(tiny_pipeline):
    noisy, plain = (mels(tiny_pipeline, name) for name in ("noise-4:0.5", "euler-4"))
    for one, other in zip(noisy, plain, strict=True):
        # The first frame is the last one of the prompt.
        assert torch.equal(one[0], other[0])
        assert float((one - other)[1:].std()) == pytest.approx(0.5, rel=0.05)
    short = min(len(mel) for mel in plain)
    differences = [(one - other)[1:short].flatten() for one, other in zip(noisy, plain, strict=True)]
    assert abs(float(torch.corrcoef(torch.stack(differences))[0, 1])) < 0.1


@pytest.mark.parametrize("jump", [0.3, 1.0])
def test_renoise_keeps_the_data_and_the_noise_level(jump):
    """With Y = X_1 - X_0 exact, each X_{t'} is t' X_1 plus normal noise of standard deviation 1 - t'."""
    generator = torch.Generator().manual_seed(0)
    x_1, x = 2.0, torch.randn(200_000, generator=generator)
    scheduler = DTMScheduler(num_inference_steps=4, num_head_steps=0)
    times = [*scheduler.timesteps.tolist(), 1.0]
    control = renoise(jump, times, x, lambda: torch.randn(x.shape, generator=generator))
    started = x
    for i, (t, after) in enumerate(zip(times, times[1:], strict=False)):
        x = scheduler.step((x_1 - x) / (1 - t), t, x).prev_sample
        x = control(None, i, torch.tensor(t), {"latents": x})["latents"]
        noise = x - after * x_1
        assert float(noise.mean()) == pytest.approx(0.0, abs=0.01)
        assert float(noise.std()) == pytest.approx(1 - after, abs=0.01)
        if jump == 1 and after < 1:
            # All of the noise is new.
            assert abs(float(torch.corrcoef(torch.stack([noise, started]))[0, 1])) < 0.01


@pytest.mark.parametrize("name", ["euler-2", "midpoint-2", "dtm-2x2", "oracle-2x2", "renoise-3:0.5", "noise-2:0.5"])
def test_batch_equals_its_items(tiny_pipeline, name):
    together = mels(tiny_pipeline, name)
    for i in range(2):
        assert_same([together[i]], mels(tiny_pipeline, name, ITEMS[i : i + 1], SEEDS[i : i + 1]), atol=2e-4)


def test_all_arms_start_from_the_same_noise(tiny_pipeline):
    starts = {}
    for name in ("euler-2", "epss-5@1", "midpoint-2", "dtm-2x2", "oracle-2x2", "renoise-2:0.5", "noise-2"):
        inputs = []
        handle = tiny_pipeline.backbone.register_forward_pre_hook(lambda _, args, inputs=inputs: inputs.append(args))
        mels(tiny_pipeline, name)
        handle.remove()
        starts[name] = inputs[0][0]
    for start in starts.values():
        assert torch.equal(start, starts["euler-2"])


def test_cost_is_what_runs(tiny_pipeline):
    for name in ("euler-3", "euler-3@1", "midpoint-2", "dtm-2x2", "oracle-2x2", "oracle-2x2@1", "renoise-3"):
        arm, rows, calls = parse_arm(name), [], []
        handles = [
            tiny_pipeline.backbone.dit.register_forward_pre_hook(
                lambda _, args, kwargs, rows=rows: rows.append(2 if kwargs["cfg_infer"] else 1), with_kwargs=True
            ),
            tiny_pipeline.head.register_forward_pre_hook(lambda _, args, calls=calls: calls.append(len(args[1]))),
        ]
        mels(tiny_pipeline, name, ITEMS[:1], SEEDS[:1])
        for handle in handles:
            handle.remove()
        assert (sum(rows), sum(calls)) == (arm.backbone_passes(), arm.head_calls()), name


@pytest.mark.parametrize("name", ["euler-2", "midpoint-2", "dtm-2x2", "oracle-2x2", "renoise-2", "noise-2"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_pipeline_is_left_as_it_was(tiny_pipeline, name, fails):
    scheduler, head, config = tiny_pipeline.scheduler, tiny_pipeline.head, dict(tiny_pipeline.config)
    hooks = len(tiny_pipeline.backbone._forward_pre_hooks)
    steps = []

    def callback(pipe, step, timestep, tensors):
        steps.append(step)
        if fails:
            raise KeyboardInterrupt
        return tensors

    try:
        mels(tiny_pipeline, name, callback=callback)
    except KeyboardInterrupt:
        pass
    assert steps == ([0] if fails else list(range(4 if name == "midpoint-2" else 2)))
    assert tiny_pipeline.scheduler is scheduler and tiny_pipeline.head is head
    assert scheduler.num_inference_steps == 4
    assert dict(tiny_pipeline.config) == config
    assert len(tiny_pipeline.backbone._forward_pre_hooks) == hooks


def test_without_a_head(tiny_pipeline):
    tiny_pipeline.head = None
    with pytest.raises(ValueError, match="'dtm-2x2', but the pipeline has no head"):
        mels(tiny_pipeline, "dtm-2x2")
    assert mels(tiny_pipeline, "oracle-1x2")[0].isfinite().all()
    assert tiny_pipeline.head is None


def test_a_head_with_guidance_baked_in(tiny_pipeline, make_head):
    plain = mels(tiny_pipeline, "euler-2@1.5")
    tiny_pipeline.head = make_head(architecture="conv", guidance_scale=2.0)
    assert_same(mels(tiny_pipeline, "euler-2@1.5"), plain)
    ours = mels(tiny_pipeline, "dtm-2x2")
    assert_same(ours, pipeline_mels(tiny_pipeline, num_inference_steps=2, num_head_steps=2))
    assert_same(mels(tiny_pipeline, "dtm-2x2@2"), ours)
    for name in ("dtm-2x2@3", "dtm-2x2@1"):
        with pytest.raises(ValueError, match=rf"'{name}', but the head has the guidance scale 2.0 baked in"):
            mels(tiny_pipeline, name)


def test_a_head_with_a_range_of_guidance_baked_in(tiny_pipeline, make_head):
    tiny_pipeline.head = make_head(architecture="conv", guidance_scale=2.0, guidance_scale_range=[1.0, 3.0])
    weak, own, strong = (mels(tiny_pipeline, f"dtm-2x2{suffix}") for suffix in ("@1.5", "", "@3"))
    assert_same(own, mels(tiny_pipeline, "dtm-2x2@2"))
    assert (weak[0] - own[0]).abs().max() > 1e-3 and (strong[0] - own[0]).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"'dtm-2x2@4', but the head has guidance scales from 1.0 to 3.0 baked in"):
        mels(tiny_pipeline, "dtm-2x2@4")


def test_what_cannot_run_is_refused(tiny_pipeline):
    scheduler = tiny_pipeline.scheduler
    with pytest.raises(ValueError, match="one entry for each of 2 items, but got 1"):
        mels(tiny_pipeline, "euler-2", seeds=[0])
    with pytest.raises(ValueError, match="must be even for `head_solver` 'midpoint'"):
        mels(tiny_pipeline, "dtm-2x3")
    with pytest.raises(ValueError, match="there is no student"), mounted(tiny_pipeline, parse_arm("student-2")):
        pass
    assert tiny_pipeline.scheduler is scheduler


def test_waveforms(tiny_pipeline):
    output = run_arm(tiny_pipeline, parse_arm("euler-2"), ITEMS, SAMPLING_RATE, SEEDS)
    assert [type(audio) for audio in output.audios] == [np.ndarray] * 2 and output.sampling_rate == SAMPLING_RATE


def test_schedulers_refuse_what_they_cannot_do():
    with pytest.raises(ValueError, match="`num_head_steps` must be 0 for the midpoint rule, but got 2"):
        MidpointScheduler(num_head_steps=2)
    scheduler = MidpointScheduler(num_inference_steps=1, num_head_steps=0)
    for t in scheduler.timesteps:
        scheduler.step(torch.zeros(1), t, torch.zeros(1))
    with pytest.raises(ValueError, match="All 1 steps are taken"):
        scheduler.step(torch.zeros(1), 0.0, torch.zeros(1))
    with pytest.raises(ValueError, match=r"`jump` must lie in \[0, 1\], but got 1.5"):
        renoise(1.5, [0.0, 1.0], torch.zeros(1), lambda: torch.zeros(1))
    with pytest.raises(ValueError, match="`std` must be at least 0, but got -1"):
        noisy_end(-1, 1, lambda: torch.zeros(1))
