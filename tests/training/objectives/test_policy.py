"""A head that says what guidance adds: its closed forms, its states, its loss."""

from dataclasses import replace

import pytest
import torch
from tiny import MEAN_MEL

from dtm_hf.backbone.closed_form import guided_at_zero
from dtm_hf.scheduling.time_grids import time_grid
from dtm_hf.training.objectives.arguments import DTMArguments
from dtm_hf.training.objectives.dtm import DTMObjective
from dtm_hf.training.objectives.policy import PolicyObjective


def arguments(**overrides):
    values = {"baked_guidance_scale": 3.0, "baked_guidance_range": [1.0, 4.0], "baked_guidance_end": 0.3}
    return DTMArguments(**values | overrides)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pass_through(backbone, batch, t=0.1, layers=1):
    x = torch.randn(batch.mel.shape, generator=generator(3))
    with torch.no_grad():
        output = backbone(
            x, t, torch.zeros_like(x), batch.text_ids, batch.attention_mask, "both", residual_layers=layers
        )
    return x, output


def test_a_copy_of_all_blocks_is_the_null_branch(make_backbone, mel_batch, make_guidance_head):
    """So that a head of as many blocks as its backbone is guidance itself, before it has learnt anything."""
    # Its null branch has no text at all.
    backbone = make_backbone(text_alignment="durations", text_embedding_average_upsampling=False)
    batch = replace(mel_batch, durations=(mel_batch.text_ids >= 0).long())
    x = torch.randn(batch.mel.shape, generator=generator(3))
    call = {"durations": batch.durations, "residual_layers": 2}
    with torch.no_grad():
        output = backbone(x, 0.1, batch.mel, batch.text_ids, batch.attention_mask, "both", **call)
    head = make_guidance_head(residual_layers=2, num_hidden_layers=2)
    head.body.copy_from(backbone.dit.state_dict())
    (v, null), valid = output.velocity.chunk(2), batch.attention_mask
    y_hat = head(
        output.joined(x), x, 0.0, timestep=0.1, velocity=v, attention_mask=valid, guidance_scale=4.0
    ).displacement
    torch.testing.assert_close(y_hat[valid], (v + 3 * (v - null))[valid], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["transformer", "conv"])
def test_answer_is_linear_in_w_and_knows_no_draw(backbone, mel_batch, make_guidance_head, architecture):
    x, output = pass_through(backbone, mel_batch)
    head = make_guidance_head(architecture, random_weights=True)
    # Told of w by the factor alone.
    head.guidance_embed.linear_2.weight.data.zero_()
    v, joined, mask = output.velocity[: len(x)], output.joined(x), mel_batch.attention_mask

    def answer(scale, y=x, s=0.0):
        call = {"timestep": 0.1, "velocity": v, "attention_mask": mask, "guidance_scale": scale}
        return head(joined, y, s, **call).displacement

    assert torch.equal(answer(1.0), v)
    torch.testing.assert_close(answer(4.0) - v, 3 * (answer(2.0) - v), atol=1e-5, rtol=1e-4)
    assert (answer(2.0) - v).abs().max() > 1e-2
    assert torch.equal(answer(2.0, y=x + 1, s=0.5), answer(2.0))


@pytest.mark.parametrize("architecture", ["transformer", "conv"])
def test_padding_changes_nothing(backbone, mel_batch, make_guidance_head, architecture):
    x, output = pass_through(backbone, mel_batch)
    head = make_guidance_head(architecture, random_weights=True)
    v, joined, mask = output.velocity[: len(x)], output.joined(x), mel_batch.attention_mask
    both = head(joined, x, 0.0, timestep=0.1, velocity=v, attention_mask=mask).displacement
    n = int(mask[1].sum())
    assert n < mask.shape[1]
    alone = head(joined[1:, :n], x[1:, :n], 0.0, timestep=0.1, velocity=v[1:, :n]).displacement
    torch.testing.assert_close(both[1, :n], alone[0], atol=1e-5, rtol=1e-4)


def test_loss_is_that_of_a_walk_in_hand(backbone, mel_batch, make_guidance_head):
    """An untrained head leads to the states of no guidance after the first step, and errs by all of w d there."""
    told = arguments(baked_guidance_range=[3.0, 3.0 + 1e-6], policy_guided_share=0.0, frac_lengths_mask=[1.0, 1.0])
    batch, head = replace(mel_batch, prompt_frames=torch.zeros(2, dtype=torch.long)), make_guidance_head("conv")
    objective = PolicyObjective(told, backbone, head.config)
    grid = time_grid("sway", 4).tolist()
    loss, figures = objective.loss(head, batch, generator())
    replay = generator()
    for _ in range(6):  # span, start, pair, two of dropped conditions, scales
        torch.rand(len(batch.mel), generator=replay)
    torch.rand(len(batch.mel), generator=replay)
    torch.randint(1, (1,), generator=replay)
    x = torch.randn(batch.mel.shape, generator=replay)
    error = weight = 0.0
    mask, silent = batch.attention_mask, torch.zeros_like(x)
    for k in range(3):
        with torch.no_grad():
            v, null = backbone(x, grid[k], silent, batch.text_ids, mask, "both").velocity.chunk(2)
        length = grid[k + 1] - grid[k]
        if k == 0:
            x = x + length * guided_at_zero(v, x, 3.0, MEAN_MEL, mask)
            continue
        error = error + length**2 * (2 * (v - null))[mask].square().mean()
        weight += length**2
        x = x + length * v
    torch.testing.assert_close(loss, error / weight, rtol=1e-3, atol=1e-6)
    assert abs(float(figures["explained"])) < 1e-3


@pytest.mark.parametrize("architecture", ["transformer", "conv"])
def test_training_explains_guidance(backbone, mel_batch, make_guidance_head, architecture):
    told = arguments(policy_step_counts=[4, 3])
    head = make_guidance_head(architecture)
    objective = PolicyObjective(told, backbone, head.config)
    before, known = objective.probe(head, mel_batch, generator()), []
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3)
    for step in range(40):
        objective.begin(step / 40)
        loss, figures = objective.loss(head, mel_batch, generator(step % 4))
        known.append(float(figures["explained"]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = objective.probe(head, mel_batch, generator())
    assert sorted(after) == [f"guidance_r2_step_{k}" for k in range(4)]
    assert sum(known[-4:]) / 4 > sum(known[:4]) / 4 + 0.25
    # The closed form of t = 0 is no matter of training, and from `guidance_end` on there is no guidance.
    assert torch.equal(after["guidance_r2_step_0"], before["guidance_r2_step_0"])
    assert after["guidance_r2_step_3"] == 0


def test_heads_that_draw_are_probed_too(backbone, mel_batch, make_head):
    head = make_head(architecture="conv", random_weights=False, guidance_scale=3.0)
    told = DTMArguments(baked_guidance_scale=3.0)
    figures = DTMObjective(told, backbone, torch.tensor([0.0])).probe(head, mel_batch, generator())
    assert [round(float(value), 5) for value in figures.values()] == [0.0] * 4
    assert not DTMObjective(DTMArguments(), backbone, torch.tensor([0.0])).probe(head, mel_batch, generator())
