"""The objectives: what is trained, what enters a loss, and what the targets are."""

import dataclasses
import inspect
from types import SimpleNamespace

import pytest
import torch

from dtm_hf.f5_import import import_f5
from dtm_hf.scheduling.time_grids import time_grid
from dtm_hf.training.objectives.arguments import ConditioningArguments, DTMArguments
from dtm_hf.training.objectives.conditioning import MelBatch, draw_conditions, draw_times, jitter_durations
from dtm_hf.training.objectives.dtm import DTMObjective
from dtm_hf.training.objectives.flow_matching import FlowMatchingObjective

GRID = time_grid("sway", 4)[:-1]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def dtm_objective(backbone, **settings):
    return DTMObjective(DTMArguments(**settings), backbone, GRID)


class Calls:
    """Inputs and outputs of a module's calls while a `with` block runs."""

    def __init__(self, module):
        self.module, self.inputs, self.outputs = module, [], []

    def __enter__(self):
        names = list(inspect.signature(self.module.forward).parameters)

        def keep(_module, args, kwargs, output):
            self.inputs.append(dict(zip(names, args, strict=False)) | kwargs)
            self.outputs.append(output)

        self.handle = self.module.register_forward_hook(keep, with_kwargs=True)
        return self

    def __exit__(self, *_):
        self.handle.remove()


def bytes_of(module):
    return {name: tensor.numpy().tobytes() for name, tensor in module.state_dict().items()}


def test_frozen_means_frozen(make_backbone, make_head, mel_batch):
    backbone, head = make_backbone(), make_head().train()
    before, head_before = bytes_of(backbone), bytes_of(head)
    objective = dtm_objective(backbone, baked_guidance_scale=3.0)
    optimizer = torch.optim.AdamW([*head.parameters(), *backbone.parameters()], lr=1e-2, weight_decay=0.1)
    for seed in range(3):
        loss, _ = objective.loss(head, mel_batch, seeded(seed))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert all(parameter.grad is not None for parameter in head.parameters())
    assert bytes_of(backbone) == before
    assert not any(head_before[name] == value for name, value in bytes_of(head).items())


@pytest.mark.parametrize("prediction", ["residual", "direct"])
def test_the_head_overfits_one_batch(backbone, make_head, mel_batch, prediction):
    """
    With t, X_0, s and Y_0 drawn alike in each step, the target is a function of what the head sees, so nothing keeps
    the loss from zero. A fair bar: the mean spectrum alone halves these targets' mean square (3.5 to 1.8), ten times
    needs the noise of each single frame. Measured: the loss falls by a thousand.
    """
    head = make_head(random_weights=False, hidden_size=256, prediction=prediction).train()
    objective = dtm_objective(backbone, head_batch_multiplier=2)
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3, weight_decay=0.0)
    losses = []
    for _ in range(150):
        loss, figures = objective.loss(head, mel_batch, seeded())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 10
    assert figures["mean_displacement_error"] < 0.2


@pytest.mark.parametrize("objective_name", ["dtm", "dtm_baked", "flow_matching"])
def test_what_is_in_the_padding_changes_no_loss_and_no_gradient(make_backbone, make_head, mel_batch, objective_name):
    backbone = make_backbone()
    if objective_name == "flow_matching":
        backbone = make_backbone(dropout=0.0)
        objective, trained = (
            FlowMatchingObjective(ConditioningArguments(t_sampling="uniform")),
            backbone.unfreeze().train(),
        )
    else:
        scale = 3.0 if objective_name == "dtm_baked" else None
        objective, trained = dtm_objective(backbone, baked_guidance_scale=scale), make_head(architecture="conv")
    dirty = mel_batch.mel.masked_fill(~mel_batch.attention_mask[..., None], 40.0)
    assert not torch.equal(dirty, mel_batch.mel)
    results = []
    for mel in (mel_batch.mel, dirty):
        trained.zero_grad()
        loss, _ = objective.loss(trained, dataclasses.replace(mel_batch, mel=mel), seeded(3))
        loss.backward()
        results.append((loss.detach(), [parameter.grad.clone() for parameter in trained.parameters()]))
    (loss, gradients), (dirty_loss, dirty_gradients) = results
    torch.testing.assert_close(dirty_loss, loss)
    assert any(gradient.abs().max() > 0 for gradient in gradients)
    for clean, other in zip(gradients, dirty_gradients, strict=True):
        torch.testing.assert_close(other, clean)


def many_rows(size=4000, frames=20):
    """A batch of many short rows, the second half with ten frames, and a prompt of five in every fourth."""
    lengths = torch.full((size,), frames)
    lengths[size // 2 :] = frames // 2
    prompt = torch.zeros(size, dtype=torch.long)
    prompt[::4] = 5
    mask = torch.arange(frames)[None] < lengths[:, None]
    mel = torch.randn(size, frames, 4, generator=seeded()) * mask[..., None]
    return MelBatch(mel, mask, torch.zeros(size, 1, dtype=torch.long), prompt)


def test_conditions_are_dropped_row_by_row():
    batch = many_rows()
    arguments = ConditioningArguments(audio_drop_prob=0.3, cond_drop_prob=0.2, frac_lengths_mask=[0.5, 0.6])
    conditions = draw_conditions(batch, arguments, seeded())
    dropped = ~conditions.cond.any(dim=2).any(dim=1)
    assert conditions.drop_text.float().mean() == pytest.approx(0.2, abs=0.03)
    assert dropped.float().mean() == pytest.approx(0.2 + 0.8 * 0.3, abs=0.03)
    assert dropped[conditions.drop_text].all()
    # Neighbouring rows differ as independent ones do: 2 p (1 - p).
    differ = (conditions.drop_text[1:] != conditions.drop_text[:-1]).float().mean()
    assert differ == pytest.approx(2 * 0.2 * 0.8, abs=0.04)


def test_the_condition_is_the_audio_outside_the_span():
    batch = many_rows()
    arguments = ConditioningArguments(audio_drop_prob=0.0, cond_drop_prob=0.0)
    conditions = draw_conditions(batch, arguments, seeded())
    assert not conditions.drop_text.any()
    assert not conditions.span[~batch.attention_mask].any()
    assert not conditions.cond[conditions.span].any()
    assert torch.equal(conditions.cond[~conditions.span], batch.mel[~conditions.span])
    lengths, span = batch.attention_mask.sum(1), conditions.span.sum(1)
    single = batch.prompt_frames == 0
    share = (span / lengths)[single]
    assert share.min() >= 0.6 and share.max() <= 1.0 and share.std() > 0.05
    # One run of frames.
    edges = conditions.span.int().diff(dim=1, prepend=torch.zeros(len(span), 1, dtype=torch.int))
    assert ((edges == 1).sum(1) == 1).all()


def test_half_of_the_pairs_predict_the_target_from_the_prompt():
    batch = many_rows()
    arguments = ConditioningArguments(audio_drop_prob=0.0, cond_drop_prob=0.0, frac_lengths_mask=[0.9, 0.9])
    conditions = draw_conditions(batch, arguments, seeded())
    target = (torch.arange(20)[None] >= 5) & batch.attention_mask
    pairs = batch.prompt_frames > 0
    as_pair = (conditions.span == target).all(dim=1)
    assert as_pair[pairs].float().mean() == pytest.approx(0.5, abs=0.06)
    assert not as_pair[~pairs].any()


def test_times_of_each_sampling():
    size, device = 4000, torch.device("cpu")

    def draw(sampling, **settings):
        return draw_times(sampling, size, device, generator=seeded(), **settings)

    grid = draw("grid", grid=GRID)
    values, counts = grid.unique(return_counts=True)
    assert torch.equal(values, GRID) and (counts > 0.2 * size).all()
    uniform, sway, logit = draw("uniform"), draw("sway"), draw("logit_normal", logit_mean=-1.0)
    twice = draw("sway_twice")
    for times in (grid, uniform, sway, twice, logit):
        assert times.shape == (size,) and times.min() >= 0 and times.max() < 1
    assert uniform.mean() == pytest.approx(0.5, abs=0.02)
    # E[1 - cos(pi u / 2)] = 1 - 2 / pi.
    assert sway.mean() == pytest.approx(1 - 2 / torch.pi, abs=0.02)
    # 1 - cos(pi/2 (1 - cos(pi u / 2))) is 0.1 at u = 0.495.
    assert (twice < 0.1).float().mean() == pytest.approx(0.495, abs=0.03)
    assert logit.median() == pytest.approx(torch.sigmoid(torch.tensor(-1.0)).item(), abs=0.02)


@pytest.mark.parametrize("t_min", [0, 1])
def test_t_is_drawn_from_the_grid_of_inference_row_by_row(backbone, head, mel_batch, t_min):
    objective = dtm_objective(backbone, t_min=t_min)
    with Calls(backbone) as calls, torch.no_grad():
        for seed in range(24):
            objective.loss(head, mel_batch, seeded(seed))
    drawn = torch.stack([call["timestep"] for call in calls.inputs])
    assert torch.equal(drawn.unique(), GRID[t_min:])
    assert (drawn[:, 0] != drawn[:, 1]).any()


def test_one_backbone_pass_serves_k_draws(backbone, head, mel_batch):
    objective = dtm_objective(backbone, head_batch_multiplier=3)
    with Calls(backbone) as passes, Calls(head) as draws:
        objective.loss(head, mel_batch, seeded())
    assert len(passes.inputs) == len(draws.inputs) == 1
    assert len(passes.inputs[0]["sample"]) == 2 and len(draws.inputs[0]["flow_state"]) == 6
    assert len(draws.inputs[0]["flow_time"].unique()) == 6


@pytest.mark.parametrize("prompt_loss", [False, True])
def test_the_loss_is_that_of_algorithm_3(backbone, make_head, mel_batch, prompt_loss):
    """||g - (Y - Y_0)||^2 over the span or all frames, every part of it read off the calls of backbone and head."""
    head = make_head(prediction="direct")
    settings = {"min_loss_remainder": 1e-6, "audio_drop_prob": 0.0, "cond_drop_prob": 0.0}
    objective = dtm_objective(backbone, prompt_loss=prompt_loss, **settings)
    with Calls(backbone) as passes, Calls(head) as draws, torch.no_grad():
        loss, _ = objective.loss(head, mel_batch, seeded())
    seen, drawn = passes.inputs[0], draws.inputs[0]
    t, x_1 = seen["timestep"][:, None, None], mel_batch.mel
    x_0 = (seen["sample"] - t * x_1) / (1 - t)
    y = (x_1 - x_0).repeat(4, 1, 1)
    s = drawn["flow_time"][:, None, None]
    y_0 = (drawn["flow_state"] - s * y) / (1 - s)
    for noise in (x_0, y_0):
        assert noise.mean() == pytest.approx(0, abs=0.05) and noise.std() == pytest.approx(1, abs=0.05)
    span = (mel_batch.attention_mask & ~seen["cond"].any(dim=2)).repeat(4, 1)
    assert 0.5 < span.sum() / (4 * mel_batch.attention_mask.sum()) < 1
    frames = mel_batch.attention_mask.repeat(4, 1) if prompt_loss else span
    expected = (draws.outputs[0].velocity - (y - y_0))[frames].square().mean()
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(drawn["velocity"], passes.outputs[0].velocity.repeat(4, 1, 1))
    torch.testing.assert_close(drawn["hidden_states"], passes.outputs[0].features)
    torch.testing.assert_close(drawn["timestep"], seen["timestep"].repeat(4))


def test_baked_guidance_moves_the_target_by_w_times_the_branches_difference(backbone, make_head, mel_batch):
    """With equal draws the states of a run with it and one without differ by s (target - Y) = s w (v_c - v_u)."""
    head = make_head(random_weights=False)
    states = {}
    for scale in (None, 3.0):
        settings = {"audio_drop_prob": 0.0, "cond_drop_prob": 0.0, "min_loss_remainder": 1e-6}
        objective = dtm_objective(backbone, baked_guidance_scale=scale, prompt_loss=False, **settings)
        with Calls(backbone) as passes, Calls(head) as draws, torch.no_grad():
            loss, _ = objective.loss(head, mel_batch, seeded())
        states[scale] = passes, draws, loss
    (plain, plain_draws, _), (baked, baked_draws, loss) = states[None], states[3.0]
    assert torch.equal(plain.inputs[0]["sample"], baked.inputs[0]["sample"])
    assert [len(calls.outputs[0].velocity) for calls in (plain, baked)] == [2, 4]
    v_c, v_u = baked.outputs[0].velocity.chunk(2)
    torch.testing.assert_close(v_c, plain.outputs[0].velocity)
    assert (v_c - v_u).std() > 0.05
    s = baked_draws.inputs[0]["flow_time"][:, None, None]
    moved = baked_draws.inputs[0]["flow_state"] - plain_draws.inputs[0]["flow_state"]
    torch.testing.assert_close(moved, s * 2.0 * (v_c - v_u).repeat(4, 1, 1), atol=1e-4, rtol=0)
    # The head runs on the conditional branch; untrained, it says v_c, and its loss is the distance to the target.
    torch.testing.assert_close(baked_draws.inputs[0]["velocity"], v_c.repeat(4, 1, 1))
    t = baked.inputs[0]["timestep"][:, None, None]
    x_0 = (baked.inputs[0]["sample"] - t * mel_batch.mel) / (1 - t)
    target = (mel_batch.mel - x_0 + 2.0 * (v_c - v_u)).repeat(4, 1, 1)
    span = (mel_batch.attention_mask & ~baked.inputs[0]["cond"].any(dim=2)).repeat(4, 1)
    expected = ((v_c.repeat(4, 1, 1) - target) / (1 - s))[span].square().mean()
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0)


def test_with_a_range_each_draw_has_its_own_scale_and_the_head_is_told(backbone, make_head, mel_batch):
    """Each row's target is Y + w (v_c - v_u), w + 1 being what the head hears."""
    head = make_head(random_weights=False, guidance_scale=2.0, guidance_scale_range=[1.5, 3.0])
    settings = {"audio_drop_prob": 0.0, "cond_drop_prob": 0.0, "head_batch_multiplier": 4}
    objective = dtm_objective(backbone, baked_guidance_scale=2.0, baked_guidance_range=[1.5, 3.0], **settings)
    with Calls(backbone) as passes, Calls(head) as draws, torch.no_grad():
        objective.loss(head, mel_batch, seeded())
    call = draws.inputs[0]
    scales = call["guidance_scale"]
    assert len(scales) == 8 and scales.unique().numel() == 8 and scales.min() >= 1.5 and scales.max() <= 3.0
    t, s = passes.inputs[0]["timestep"][:, None, None], call["flow_time"][:, None, None]
    y = mel_batch.mel - (passes.inputs[0]["sample"] - t * mel_batch.mel) / (1 - t)
    v_c, v_u = passes.outputs[0].velocity.chunk(2)
    target = y.repeat(4, 1, 1) + (scales - 1)[:, None, None] * (v_c - v_u).repeat(4, 1, 1)
    # What is left of the state is Y_0: standard normal, whatever the scale, and at whichever time guidance ends.
    y_0 = ((call["flow_state"] - s * target) / (1 - s))[s.flatten() < 0.8]
    assert y_0.mean().abs() < 0.05 and y_0.std() == pytest.approx(1.0, abs=0.05)


def test_baked_guidance_ends_where_it_is_told_to(backbone, make_head, mel_batch):
    head, flow_states = make_head(random_weights=False), {}
    for end in (0.0, 0.3, 1.0):
        for scale in (None, 3.0):
            settings = {"audio_drop_prob": 0.0, "cond_drop_prob": 0.0, "baked_guidance_end": end}
            objective = dtm_objective(backbone, baked_guidance_scale=scale, **settings)
            batch = dataclasses.replace(
                mel_batch,
                **{name: getattr(mel_batch, name).repeat_interleave(8, dim=0) for name in ("mel", "attention_mask")},
                text_ids=mel_batch.text_ids.repeat_interleave(8, dim=0),
                prompt_frames=mel_batch.prompt_frames.repeat_interleave(8, dim=0),
            )
            with Calls(head) as draws, torch.no_grad():
                objective.loss(head, batch, seeded())
            flow_states[end, scale] = draws.inputs[0]["flow_state"]
        moved = (flow_states[end, 3.0] - flow_states[end, None]).abs().amax(dim=(1, 2)) > 1e-4
        guided = draws.inputs[0]["timestep"] < end
        assert torch.equal(moved, guided & (draws.inputs[0]["flow_time"] > 1e-3))
    assert guided.all() and 0 < (draws.inputs[0]["timestep"] < 0.3).float().mean() < 1


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_draws_at_s_0_are_told_the_guided_mean(backbone, mel_batch, share):
    objective = dtm_objective(backbone, baked_guidance_scale=3.0, mean_draw_prob=share, head_batch_multiplier=8)
    times = []
    with Calls(backbone) as passes, torch.no_grad():

        def guided_mean(_, state, flow_time, *, velocity, **__):
            times.append(flow_time)
            v_c, v_u = passes.outputs[0].velocity.chunk(2)
            assert torch.equal(velocity, v_c.repeat(8, 1, 1))
            return SimpleNamespace(displacement=velocity + 2 * (v_c - v_u).repeat(8, 1, 1))

        losses = objective.loss(guided_mean, mel_batch, seeded()).row_losses
    at_mean = times[0] == 0
    assert at_mean.float().mean() == pytest.approx(share, abs=0.3) and at_mean.any() == (share > 0)
    assert (losses[at_mean] < 1e-10).all() and (losses[~at_mean] > 0.1).all()


def test_baked_guidance_never_drops_conditions(backbone, head, mel_batch):
    objective = dtm_objective(backbone, baked_guidance_scale=2.0, audio_drop_prob=1.0, cond_drop_prob=1.0)
    with Calls(backbone) as calls, torch.no_grad():
        for seed in range(8):
            objective.loss(head, mel_batch, seeded(seed))
    assert all(call["branch"] == "both" and not call["drop_text"].any() for call in calls.inputs)
    assert torch.stack([call["cond"].any() for call in calls.inputs]).any()


@pytest.mark.parametrize(("audio_drop", "cond_drop"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)])
def test_flow_matching_is_the_loss_of_f5_tts(make_backbone, mel_batch, monkeypatch, audio_drop, cond_drop):
    """`CFM.forward` on the same weights in training, given the noise, times and span that our objective drew."""
    backbone = make_backbone(dropout=0.0).unfreeze().train()
    settings = {"audio_drop_prob": audio_drop, "cond_drop_prob": cond_drop, "prompt_loss": False}
    arguments = ConditioningArguments(t_sampling="uniform", **settings)
    with Calls(backbone) as calls, torch.no_grad():
        loss, _ = FlowMatchingObjective(arguments).loss(backbone, mel_batch, seeded())
    seen, x_1 = calls.inputs[0], mel_batch.mel
    t = seen["timestep"]
    x_0 = (seen["sample"] - t[:, None, None] * x_1) / (1 - t[:, None, None])
    span = draw_conditions(mel_batch, arguments, seeded()).span

    cfm = import_f5("f5_tts.model.cfm", chinese=False)
    model = cfm.CFM(transformer=backbone.dit, audio_drop_prob=audio_drop, cond_drop_prob=cond_drop)
    monkeypatch.setattr(cfm, "mask_from_frac_lengths", lambda *_: span.clone())
    monkeypatch.setattr(torch, "randn_like", lambda *_: x_0)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: t)
    lengths = mel_batch.attention_mask.sum(dim=1)
    with torch.no_grad():
        expected, cond, _ = model(x_1, mel_batch.text_ids, lens=lengths)
    if not audio_drop and not cond_drop:
        torch.testing.assert_close(seen["cond"], cond)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


def test_flow_matching_scores_the_known_frames_too(make_backbone, mel_batch):
    """The sampler denoises them: where no loss has seen the velocity, guidance drives the prompt off."""
    backbone = make_backbone(dropout=0.0).unfreeze().train()
    arguments = ConditioningArguments(t_sampling="uniform", audio_drop_prob=0.0, cond_drop_prob=0.0)
    with Calls(backbone) as calls, torch.no_grad():
        loss, _ = FlowMatchingObjective(arguments).loss(backbone, mel_batch, seeded())
    t, valid = calls.inputs[0]["timestep"][:, None, None], mel_batch.attention_mask
    x_0 = (calls.inputs[0]["sample"] - t * mel_batch.mel) / (1 - t)
    error = (calls.outputs[0].velocity - (mel_batch.mel - x_0)) ** 2
    torch.testing.assert_close(loss, error[valid].mean(), rtol=1e-4, atol=0)
    known = calls.inputs[0]["cond"].any(dim=2)
    assert (valid & known).any() and not torch.isclose(loss, error[valid & ~known].mean(), rtol=1e-3)


def test_probe_tells_right_from_wrong_text(backbone, mel_batch):
    objective = FlowMatchingObjective(ConditioningArguments(t_sampling="uniform"))
    figures = objective.probe(backbone, mel_batch, seeded())
    assert figures["loss_right_text"] != figures["loss_wrong_text"]
    same = dataclasses.replace(mel_batch, text_ids=mel_batch.text_ids[:1].expand(2, -1))
    figures = objective.probe(backbone, same, seeded())
    assert figures["loss_right_text"] == figures["loss_wrong_text"]


def test_jittered_durations_keep_the_length_of_each_row_and_leave_padding_alone():
    durations = torch.tensor([[3, 5, 2, 7, 4, 0, 0], [6] * 7])
    assert jitter_durations(durations, 0.0).equal(durations)
    moved = torch.stack([jitter_durations(durations, 4.0, torch.Generator().manual_seed(i)) for i in range(200)])
    assert moved.sum(dim=2).eq(durations.sum(dim=1)).all() and moved.ge(0).all()
    assert moved[:, 0, 5:].eq(0).all() and not moved.eq(durations).all(dim=2).all()
    # Ends are off by a standard deviation of 4 times the root mean square of a uniform deviate, 2.3 frames.
    off = (moved.cumsum(dim=2) - durations.cumsum(dim=1))[:, 1, 2:4].float()
    assert off.mean().abs() < 0.5 and 1.6 < off.std() < 2.9
