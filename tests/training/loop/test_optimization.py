"""Optimizers: which parameters each has, and that they learn."""

import pytest
import torch
from tiny_speecht5 import tiny_speecht5

from dtm_hf.training.config.arguments import OptimizationArguments
from dtm_hf.training.loop.optimization import build_optimizers, build_schedules, set_schedules


def options(**values):
    return OptimizationArguments(learning_rate=1e-2, warmup_steps=0, max_steps=20, **values)


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "muon"])
def test_each_optimizer_has_every_parameter_once_and_learns(make_backbone, name):
    backbone = make_backbone().unfreeze()
    optimizers = build_optimizers(dict(backbone.named_parameters()), options(optimizer=name))
    parameters = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert len(parameters) == len({id(p) for p in parameters}) == len(list(backbone.parameters()))
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(2, 20, 100, generator=generator)
    losses = []
    for _ in range(8):
        velocity = backbone(sample, 0.5, torch.zeros_like(sample), torch.ones(2, 5, dtype=torch.long)).velocity
        loss = (velocity - 1).square().mean()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_moments_in_8_bits(make_backbone):
    backbone = make_backbone().unfreeze()
    (optimizer,) = build_optimizers(dict(backbone.named_parameters()), options(optimizer="adamw_8bit"))
    backbone(
        torch.randn(1, 8, 100), 0.5, torch.zeros(1, 8, 100), torch.ones(1, 3, dtype=torch.long)
    ).velocity.sum().backward()
    optimizer.step()
    large = backbone.dit.transformer_blocks[0].attn.to_q.weight
    assert optimizer.state[large]["state1"].dtype == torch.uint8


def test_muon_leaves_the_modulation_to_adamw(make_backbone):
    backbone = make_backbone().unfreeze()
    _, muon = build_optimizers(dict(backbone.named_parameters()), options(optimizer="muon"))
    matrices = {id(p) for group in muon.param_groups for p in group["params"]}
    names = [name for name, p in backbone.named_parameters() if id(p) in matrices]
    assert names and all("transformer_blocks" in name or "text_blocks" in name for name in names)
    assert not any("norm" in name for name in names)


def test_muon_has_the_layers_of_a_speecht5():
    network = tiny_speecht5()
    _, muon = build_optimizers(dict(network.named_parameters()), options(optimizer="muon"))
    matrices = {id(p) for group in muon.param_groups for p in group["params"]}
    names = [name for name, p in network.named_parameters() if id(p) in matrices]
    # Four of attention, twice in the decoder, and two of feed-forward in each of two layers.
    assert len(names) == 2 * (6 + 10)
    assert all(".layers." in name and "prenet" not in name and "postnet" not in name for name in names)


def test_a_stable_phase_can_be_prolonged(make_backbone):
    backbone = make_backbone().unfreeze()

    def rate(max_steps, step):
        settings = options(lr_scheduler="warmup_stable_decay", decay_steps=5)
        settings.max_steps = max_steps
        schedules = build_schedules(build_optimizers(dict(backbone.named_parameters()), settings), settings)
        set_schedules(schedules, step)
        return schedules[0].get_last_lr()[0]

    assert rate(20, 15) == rate(100, 15) == 1e-2
    assert rate(20, 18) < 1e-2 == rate(100, 90)
