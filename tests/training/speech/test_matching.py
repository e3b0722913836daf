"""A head that is distilled: it is trained on the walk that it is used in, and saved as a head."""

import pytest
import torch
from accelerate.state import AcceleratorState
from training_runs import LOOP, QUIET, log, write_corpus

from dtm_hf import DTMHead, DTMPipeline, DTMScheduler
from dtm_hf.backbone.closed_form import guided_at_zero
from dtm_hf.scheduling.time_grids import time_grid
from dtm_hf.training.objectives.adapters import F5_LAYERS, AdapterNetworks
from dtm_hf.training.speech.arguments import HeadStudentArguments
from dtm_hf.training.speech.matching import HeadMatchingObjective
from dtm_hf.training.systems import parse_config
from dtm_hf.training.trainer import Trainer


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def objective(make_backbone, head, **overrides):
    torch.manual_seed(0)
    networks = AdapterNetworks(make_backbone(), F5_LAYERS, 4, step_counts=(4,))
    arguments = HeadStudentArguments(**{"step_counts": [4], "teacher_guidance_scale": 3.0} | overrides)
    return HeadMatchingObjective(arguments, networks, DTMScheduler(4, 1, head_solver="euler"), head)


def test_it_walks_as_the_sampler_does(make_backbone, backbone, mel_batch, make_guidance_head):
    """Closed form, head, head, plain: with a `guidance_end` of 0.3 the last of four steps is the backbone's own."""
    head = make_guidance_head(random_weights=True)
    walked = objective(make_backbone, head).prepare(mel_batch, seeded())
    conditions, states = walked.conditions, walked.rollout.states
    grid, x = time_grid("sway", 4).tolist(), states[0]
    for k, (t, after) in enumerate(zip(grid, grid[1:], strict=False)):
        with torch.no_grad():
            output = backbone(x, t, **conditions, residual_layers=1)
            v = output.velocity
            call = {"timestep": t, "velocity": v, "attention_mask": mel_batch.attention_mask, "guidance_scale": 3.0}
            answers = [
                guided_at_zero(v, x, 3.0, head.config.mean_mel, mel_batch.attention_mask),
                head(output.joined(x), x, 0.0, **call).displacement,
                v,
            ]
        x = x + (after - t) * answers[(0, 1, 1, 2)[k]]
        torch.testing.assert_close(states[k + 1], x, atol=1e-4, rtol=1e-4)


def test_steps_without_the_head_are_not_drawn(make_backbone, mel_batch, make_guidance_head):
    """Of four steps with a `guidance_end` of 0.3 the second and the third, each as often."""
    matching = objective(make_backbone, make_guidance_head(random_weights=True))
    rollout = matching.prepare(mel_batch, seeded()).rollout
    drawn = torch.stack([rollout.draw_steps(seeded(seed)) for seed in range(400)])
    shares = drawn.flatten().bincount(minlength=4) / drawn.numel()
    assert shares[0] == shares[3] == 0 and 0.4 < shares[1] < 0.6
    for loss in (matching.student_loss, matching.estimator_loss):
        assert set(loss(None, matching.prepare(mel_batch, seeded()), seeded(1)).step.tolist()) <= {1, 2}


def test_where_teacher_and_estimator_agree_nothing_pulls(make_backbone, mel_batch, make_guidance_head):
    """An estimator that has learnt nothing is the teacher without guidance."""
    for scale, pulls in ((1.0, False), (3.0, True)):
        matching = objective(make_backbone, make_guidance_head(random_weights=True), teacher_guidance_scale=scale)
        loss, figures = matching.student_loss(None, matching.prepare(mel_batch, seeded()), seeded(1))
        loss.backward()
        gradients = [p.grad.abs().max() for p in matching.head.parameters() if p.grad is not None]
        assert (max(gradients) > 1e-6) == (figures["score_gap"] > 1e-4) == pulls


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def save_base(backbone, tokenizer, feature_extractor, vocoder, tmp_path_factory):
    def save(head):
        folder = tmp_path_factory.mktemp("base") / "pipeline"
        parts = {"tokenizer": tokenizer, "feature_extractor": feature_extractor, "vocoder": vocoder}
        scheduler = DTMScheduler(4, 1, head_solver="euler")
        DTMPipeline(backbone=backbone, head=head, scheduler=scheduler, **parts).save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="module")
def base(save_base, make_guidance_head):
    return save_base(make_guidance_head(random_weights=True))


def arguments(base, corpus, output_dir, *more):
    argv = ["--objective", "tdm_head", "--base_model", str(base), "--init_from", str(base), "--dataset", str(corpus)]
    argv += [*LOOP, *QUIET, "--output_dir", str(output_dir), "--lora_rank", "2", "--step_counts", "4"]
    return [*argv, "--learning_rate", "1e-3", "--pair_probability", "0.5", *more]


def test_the_head_alone_has_changed(base, corpus, tmp_path):
    AcceleratorState._reset_state(reset_partial_state=True)
    argv = arguments(base, corpus, tmp_path / "run", "--max_steps", "2", "--head_end", "0.7")
    Trainer(parse_config([*argv, "--sample_prompts", "a|hello"])).train()
    names = ("loss", "estimator_loss", "validation_mel_distance", "validation_guidance_r2_step_1")
    assert all(log(tmp_path / "run", name) for name in names)
    before, after = (DTMPipeline.from_pretrained(folder) for folder in (base, tmp_path / "run"))
    assert after.backbone.fingerprint == before.backbone.fingerprint == after.head.config.backbone_fingerprint
    assert (after.head.config.guidance_end, before.head.config.guidance_end) == (0.7, 0.3)
    assert after.scheduler.config.num_inference_steps == 4 and after.scheduler.config.num_head_steps == 1
    pairs = zip(before.head.state_dict().items(), after.head.state_dict().values(), strict=True)
    changed = [name for (name, weight), other in pairs if not torch.equal(weight, other)]
    assert any(name.startswith("body.") for name in changed)
    assert DTMHead.from_pretrained(tmp_path / "run" / "head").config.guidance_scale == 3.0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--imitates", "true"], "`imitates` is for the objective tdm"),
        (["--full_parameters", "true"], "`full_parameters` is for the objective tdm"),
        (["--time_grid", "epss"], "`time_grid` must be 'sway' or 'uniform' for tdm_head"),
        (["--teacher_guidance_scale", "7"], r"`teacher_guidance_scale` must lie in \[1.0, 4.0\]"),
        (["--head_end", "1.5"], "`head_end` must be at most 1, or none, but got 1.5"),
        (["--head_end", "0"], "`head_end` must be greater than 0, or none, but got 0"),
        (["--step_counts", "1"], "`step_counts` must be numbers of steps of which the head takes part in one"),
    ],
)
def test_what_cannot_be(base, corpus, tmp_path, more, message):
    with pytest.raises(ValueError, match=message):
        Trainer(parse_config(arguments(base, corpus, tmp_path / "run", *more)))


def test_there_is_a_head_to_begin_with(base, corpus, tmp_path):
    argv = arguments(base, corpus, tmp_path / "run")
    at = argv.index("--init_from")
    with pytest.raises(ValueError, match="`init_from` must be the head to begin with"):
        parse_config(argv[:at] + argv[at + 2 :])


def test_a_head_that_draws_is_refused(save_base, make_head, corpus, tmp_path):
    base = save_base(make_head(architecture="conv", guidance_scale=3.0, guidance_scale_range=[1.0, 4.0]))
    with pytest.raises(ValueError, match="`init_from` must be a head of `prediction` 'guidance'"):
        Trainer(parse_config(arguments(base, corpus, tmp_path / "run")))
