"""Distilling F5-TTS: what the three networks are shown, whose gradient is whose, and which way training leads."""

import copy
import sys

import pytest
import torch
from tiny import randomise

from dtm_hf import DTMScheduler
from dtm_hf.training.objectives.adapters import F5_LAYERS, ROLES, AdapterNetworks
from dtm_hf.training.objectives.arguments import TDMSpeechArguments
from dtm_hf.training.speech.tdm import TDMSpeechObjective

both_modes = pytest.mark.parametrize("full_parameters", [False, True], ids=["adapters", "full"])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def build(backbone, full_parameters=False, random_weights=True, step_counts=(1, 2, 4), **arguments):
    """An objective around the tiny backbone, whose student and estimator have moved off the base."""
    torch.manual_seed(0)
    networks = AdapterNetworks(backbone, F5_LAYERS, 4, step_counts=step_counts, full_parameters=full_parameters)
    if random_weights:
        for seed, role in enumerate(ROLES):
            randomise(networks.trained[role], seed)
    scheduler = DTMScheduler(num_inference_steps=max(step_counts), num_head_steps=0)
    return TDMSpeechObjective(TDMSpeechArguments(**arguments), networks, scheduler)


def heard(objective, monkeypatch):
    """Notes the arguments of each network's calls."""
    calls = {"teacher": [], "student": [], "estimator": []}
    for role, noted in calls.items():
        network = getattr(objective.networks, role)

        def noting(*args, network=network, noted=noted, **kwargs):
            noted.append({"t": args[1], **kwargs})
            return network(*args, **kwargs)

        monkeypatch.setattr(objective.networks, role, noting)
    return calls


# Who gets a gradient


@both_modes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
def test_each_phase_trains_its_group_alone(make_backbone, mel_batch, full_parameters, dtype, autocast):
    if full_parameters and dtype != torch.float32:
        pytest.skip("refused: parameters in half precision are never optimised")
    objective = build(make_backbone().to(dtype), full_parameters)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        batch = objective.prepare(mel_batch, seeded())
    assert not batch.rollout.states.requires_grad and batch.rollout.states.dtype == torch.float32
    assert [phase.group for phase in objective.phases(0)] == ["estimator", "student"]
    for phase in objective.phases(0):
        objective.networks.trained.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = phase.loss(None, batch)
        output.loss.backward()
        for role in ROLES:
            gradients = {name: p.grad for name, p in objective.networks.parameters(role).items()}
            if role != phase.group:
                assert set(gradients.values()) == {None}
                continue
            # Full copies have parameters that nothing reads without a null branch.
            missing = [n for n, g in gradients.items() if g is None or not g.isfinite().all()]
            assert not missing
            assert all(g.any() for n, g in gradients.items() if "lora_B" in n)
    teacher = [p for n, p in objective.networks.base.named_parameters() if "lora_" not in n]
    assert all(p.grad is None for p in teacher)


def test_the_student_moves_and_the_base_does_not(make_backbone, mel_batch):
    objective = build(make_backbone(), random_weights=False)
    before = copy.deepcopy(objective.networks.merged_state_dict("teacher"))
    optimizer = torch.optim.AdamW(objective.networks.trained.parameters(), lr=1e-2)
    for step in range(3):
        torch.manual_seed(step)
        batch = objective.prepare(mel_batch)
        for phase in objective.phases(step):
            optimizer.zero_grad()
            phase.loss(None, batch).loss.backward()
            optimizer.step()
    after = objective.networks.merged_state_dict("teacher")
    assert all(torch.equal(before[name], after[name]) for name in before)
    student = objective.networks.merged_state_dict("student")
    assert any(not torch.equal(before[name], student[name]) for name in before)


# What they are shown


def test_no_condition_is_dropped_and_the_text_is_the_right_one(make_backbone, mel_batch, monkeypatch):
    drops = {"audio_drop_prob": 1.0, "cond_drop_prob": 1.0, "pair_target_prob": 0.0}
    objective = build(make_backbone(), frac_lengths_mask=[0.5, 0.5], **drops)
    calls = heard(objective, monkeypatch)
    batch = objective.prepare(mel_batch, seeded())
    objective.student_loss(None, batch, seeded())
    expected = objective.networks.base.encode_text(mel_batch.text_ids, mel_batch.attention_mask, 47)
    for role, noted in calls.items():
        assert noted, role
        for call in noted:
            assert torch.equal(call["text_embeds"].cond, expected.cond)
            # Half of each utterance is prompt.
            assert call["cond"].any(dim=-1).sum(dim=1).tolist() == pytest.approx([23, 16], abs=2)
            assert ("num_steps" in call) == (role != "teacher")


def test_the_shared_text_is_what_each_network_would_have_read(make_backbone, mel_batch):
    adapters, full = build(make_backbone(), random_weights=False), build(make_backbone(), True, random_weights=False)
    losses = []
    for objective in (adapters, full):
        batch = objective.prepare(mel_batch, seeded())
        losses.append(
            [objective.student_loss(None, batch, seeded(1)), objective.estimator_loss(None, batch, seeded(2))]
        )
    for one, two in zip(*losses, strict=True):
        torch.testing.assert_close(one.row_losses, two.row_losses, rtol=1e-4, atol=1e-5)


def test_the_teacher_is_guided_until_its_end(make_backbone, mel_batch):
    x, t = torch.randn(mel_batch.mel.shape, generator=seeded()), torch.tensor([0.2, 0.6])
    objective = build(make_backbone(), teacher_guidance_scale=2.5, teacher_guidance_end=0.5)
    inputs = objective._inputs(mel_batch, mel_batch.mel)
    with torch.no_grad():
        cond, null = (
            objective.networks.base(x, t, branch=branch, **inputs).velocity.float() for branch in ("cond", "null")
        )
    expected = torch.stack([cond[0] + 1.5 * (cond[0] - null[0]), cond[1]])
    torch.testing.assert_close(objective._teacher(x, t, **inputs), expected, rtol=1e-4, atol=1e-4)
    unguided = build(make_backbone(), teacher_guidance_scale=1.0)
    torch.testing.assert_close(unguided._teacher(x, t, **unguided._inputs(mel_batch, mel_batch.mel)), cond)


def test_with_nothing_to_tell_apart_an_unguided_start_has_no_gap(make_backbone, mel_batch):
    """Student, estimator and unguided teacher are one network at first: real and fake agree, and so do the scores."""
    objective = build(make_backbone(), random_weights=False, teacher_guidance_scale=1.0)
    output = objective.student_loss(None, objective.prepare(mel_batch, seeded()), seeded(1))
    assert float(output.loss.detach()) == pytest.approx(0, abs=1e-6)
    assert output.row_gaps.tolist() == pytest.approx([0, 0], abs=1e-4)
    guided = build(make_backbone(), random_weights=False, teacher_guidance_scale=3.0)
    assert guided.student_loss(None, guided.prepare(mel_batch, seeded()), seeded(1)).row_gaps.min() > 0.01


@pytest.mark.parametrize("prompt_loss", [True, False])
def test_only_the_frames_of_the_loss_enter_it(make_backbone, mel_batch, prompt_loss):
    objective = build(make_backbone(), prompt_loss=prompt_loss, frac_lengths_mask=[0.5, 0.5], pair_target_prob=0.0)
    batch = objective.prepare(mel_batch, seeded())
    known = mel_batch.attention_mask & batch.conditions["cond"].any(dim=-1)
    assert known.any() and not (batch.mask & ~mel_batch.attention_mask).any()
    assert bool((batch.mask & known).any()) is prompt_loss
    output = objective.estimator_loss(None, batch, seeded(1))
    assert torch.equal(output.row_frames, batch.mask.sum(dim=1))


@pytest.mark.parametrize(("every", "updates"), [(1, 1), (1, 5), (3, 2)])
def test_how_often_the_estimator_is_updated(make_backbone, every, updates):
    objective = build(make_backbone(), update_estimator_every=every, estimator_updates=updates)
    groups = [[phase.group for phase in objective.phases(step)] for step in range(4)]
    full = ["estimator"] * updates + ["student"]
    assert groups == [full if step % every == 0 else ["student"] for step in range(4)]


# Samples


def test_samples_keep_the_length_and_begin_with_the_same_noise(make_backbone, mel_batch):
    objective = build(make_backbone())
    mel, conditions = objective.sample(mel_batch, 4, seeded())
    assert mel.shape == mel_batch.mel.shape and mel.isfinite().all()
    # The pair's target, and what follows the first 30% of the other.
    lengths = mel_batch.attention_mask.sum(dim=1).tolist()
    assert conditions.span.sum(dim=1).tolist() == [lengths[0] - 12, lengths[1] - int(0.3 * lengths[1])]
    assert not (conditions.cond.any(dim=-1) & conditions.span).any()
    again, _ = objective.sample(mel_batch, 4, seeded())
    assert torch.equal(mel, again) and not torch.equal(mel, objective.sample(mel_batch, 2, seeded())[0])


def test_perfect_samples_have_perfect_figures(make_backbone, mel_batch, monkeypatch):
    objective = build(make_backbone())
    judged = objective.judge(mel_batch, 4, seeded())
    assert judged["mel_distance"] > 0.1 and judged["frame_difference"] > 0
    _, conditions = objective.sample(mel_batch, 4, seeded())
    monkeypatch.setattr(objective, "sample", lambda batch, *_: (batch.mel, conditions))
    assert objective.judge(mel_batch, 4) == {"mel_distance": 0.0, "frame_difference": 1.0}
    # The mean of all that could be said is near to it, and still.
    mean = mel_batch.mel.mean(dim=1, keepdim=True).expand_as(mel_batch.mel)
    monkeypatch.setattr(objective, "sample", lambda *_: (mean, conditions))
    still = objective.judge(mel_batch, 4)
    assert still["mel_distance"] > 0 and still["frame_difference"] == 0


# Which way it leads


def test_the_estimator_learns_the_states_of_a_fixed_student(make_backbone, mel_batch):
    objective = build(make_backbone())
    optimizer = torch.optim.AdamW(objective.networks.parameters("estimator").values(), lr=3e-3)
    batch, losses = objective.prepare(mel_batch, seeded()), []
    for step in range(30):
        # Four draws of times and noise, over and over.
        output = objective.estimator_loss(None, batch, seeded(step % 4))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(float(output.loss.detach()))
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])


def test_a_library_that_validation_needs_is_missed_before_the_first_step(make_backbone, monkeypatch):
    monkeypatch.setitem(sys.modules, "librosa", None)
    with pytest.raises(ImportError, match=r"`librosa` is not installed: pip install \"dtm-hf\[train\]\""):
        build(make_backbone())
