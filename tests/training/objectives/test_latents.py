"""The loss of TRM's continuous mode: closed forms, and that utterances are learnt by heart as latents."""

import torch
from tiny_trm import MASK, SPEAKERS, TEXT, flow_head, model

from dtm_hf.training.objectives.latents import LatentBatch, LatentObjective

WIDTH = 4


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(12, (2, 3, 9), generator=generator)
    return LatentBatch(TEXT, SPEAKERS, codes, MASK, torch.randn(2, 9, WIDTH, generator=generator))


def networks(**changes):
    made = {"model": model(dropout=0.0, latent_dim=WIDTH), "head": flow_head(WIDTH, **changes)}
    return torch.nn.ModuleDict(made)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_loss_of_an_untrained_head_is_the_error_of_the_mean():
    """D = 0: y_hat is the mean, so that the error is (1 + 1 / (1 - s)^2) times the mean's."""
    both, objective = networks(moved=False), LatentObjective(draws=3, num_cycles=1, text_drop_prob=0.0)
    with torch.no_grad():
        output = objective.loss(both, batch(), seeded())
        answer = both["model"](TEXT, SPEAKERS, MASK, num_cycles=1).answer
        error = (both["model"].mean_latents(answer) - batch().latents).square().mean(dim=-1)
    weights = 1 + 1 / (1 - output.s).clamp(min=0.1) ** 2
    rows = torch.stack([error[0].mean(), error[1, :5].mean()]).repeat(3) * weights
    torch.testing.assert_close(output.row_losses, rows)
    torch.testing.assert_close(output.loss, (rows * torch.tensor([9, 5] * 3)).sum() / 42)
    torch.testing.assert_close(output.figures["mean_displacement_error"], torch.tensor(1.0))
    assert not output.t.any()


def test_padding_does_not_matter_and_cycles_each_have_a_loss():
    both, objective = networks(), LatentObjective(num_cycles=3, text_drop_prob=0.0, any_number=False)
    other = batch()
    other.latents = other.latents.masked_fill(~MASK[..., None], 7.0)
    with torch.no_grad():
        found = [objective.loss(both, given, seeded()) for given in (batch(), other)]
    # What stands at padding is masked before the head's convolution looks at it.
    torch.testing.assert_close(found[0].loss, found[1].loss)
    assert sorted(set(found[0].t.tolist())) == torch.tensor([0.0, 1 / 3, 2 / 3]).tolist()
    assert len(found[0].row_losses) == 3 * 4 * 2


def test_a_prompt_is_shown_and_no_target():
    objective = LatentObjective(num_cycles=1, prompt_prob=1.0, text_drop_prob=0.0)
    with torch.no_grad():
        frames = torch.stack([objective.loss(networks(), batch(), seeded(s)).row_frames[:2] for s in range(8)])
    assert (frames >= torch.tensor([5, 3])).all() and (frames < torch.tensor([9, 5])).any(dim=0).all()


def test_utterances_are_learnt_by_heart_as_latents():
    """Network and head together, and drawn by the pipeline's own loop."""
    from dtm_hf.pipelines.latent_sampler import generate_latents
    from dtm_hf.scheduling.scheduling_dtm import DTMScheduler

    both = networks(moved=False).train()
    objective = LatentObjective(draws=2, num_cycles=1, text_drop_prob=0.0, min_loss_remainder=0.3)
    optimizer, generator = torch.optim.AdamW(both.parameters(), lr=1e-3), seeded()
    for _ in range(240):
        loss = objective.loss(both, batch(), generator).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
    flow = DTMScheduler(num_inference_steps=1, num_head_steps=4)
    flow.set_timesteps(1, 4)
    noise = torch.randn(2, WIDTH, 9, generator=generator)
    drawn = generate_latents(both["model"].eval(), both["head"].eval(), flow, 1, TEXT, SPEAKERS, MASK, noise)
    error = (drawn.transpose(1, 2) - batch().latents)[MASK].square().mean() / batch().latents[MASK].square().mean()
    assert error < 0.05
