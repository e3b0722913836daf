"""Durations of tokens: what a prompt's pace does, what is drawn, and how it is rounded."""

import pytest
import torch

from dtm_hf.frontend.token_durations import TokenDurations, whole_frames
from dtm_hf.training.objectives.alignment import DurationsObjective
from dtm_hf.training.objectives.conditioning import MelBatch

TOKENS = 6


def spoken_batch(size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Token k takes k + 2 frames at a pace that each row has of its own, give or take a fifth."""
    text_ids = torch.randint(0, TOKENS, (size, 14), generator=generator)
    text_ids = text_ids.masked_fill(torch.arange(14) >= torch.randint(9, 15, (size, 1), generator=generator), -1)
    pace = torch.tensor([0.6, 1.6])[torch.randint(0, 2, (size, 1), generator=generator)]
    spread = (0.2 * torch.randn(text_ids.shape, generator=generator)).exp()
    return text_ids, ((text_ids + 2) * pace * spread).masked_fill(text_ids < 0, 0.0) * 3


@pytest.fixture(scope="module")
def trained() -> TokenDurations:
    torch.manual_seed(0)
    network = TokenDurations(TOKENS, hidden_size=48, num_layers=3, log_mean=2.0, log_std=0.6)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(400):
        text_ids, frames = spoken_batch(64, generator)
        batch = MelBatch(None, None, text_ids, None, frames)
        loss = DurationsObjective().loss(network, batch, generator).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def test_follows_the_pace_of_the_prompt(trained):
    generator = torch.Generator().manual_seed(2)
    text_ids, frames = spoken_batch(64, generator)
    known = frames.masked_fill(torch.arange(14) >= 6, 0.0).round().long()
    drawn = trained.sample(text_ids, known, generator=generator)
    wanted = (text_ids >= 0) & (known == 0)
    ratio = (drawn.sum(1) - known.sum(1)) / (frames * wanted).sum(1)
    assert 0.85 < ratio.mean() < 1.15
    assert ratio.std() < 0.25
    assert torch.equal(drawn[known > 0].round().long(), known[known > 0])
    assert not drawn[text_ids < 0].any()


def test_draws_differ_as_takes_do(trained):
    text_ids = torch.arange(14)[None].repeat(200, 1) % TOKENS
    known = ((text_ids + 2) * 5).masked_fill(torch.arange(14) >= 6, 0)
    takes = trained.sample(text_ids, known, 16, torch.Generator().manual_seed(3))[:, 6:].log()
    # The spread of the takes that it was trained on is 0.2.
    assert 0.12 < takes.std(0).mean() < 0.3
    mean = trained.mean(text_ids[:1], known[:1])[0, 6:].log()
    assert (mean - takes.mean(0)).abs().mean() < 0.2


def test_less_noise_brings_takes_together(trained):
    text_ids = torch.arange(14)[None].repeat(50, 1) % TOKENS
    known = ((text_ids + 2) * 5).masked_fill(torch.arange(14) >= 6, 0)
    spreads = []
    for scale in (1.0, 0.5, 0.0):
        quieter = TokenDurations(TOKENS, 48, 3, log_mean=2.0, log_std=0.6, noise_scale=scale)
        quieter.load_state_dict(trained.state_dict())
        takes = quieter.sample(text_ids, known, generator=torch.Generator().manual_seed(3))[:, 6:].log()
        spreads.append(takes.std(0).mean())
    assert spreads[0] > 1.5 * spreads[1] > 0.05
    assert spreads[2] < 1e-5


def test_a_batch_equals_its_rows(trained):
    text_ids, frames = spoken_batch(4, torch.Generator().manual_seed(4))
    known = frames.masked_fill(torch.arange(14) >= 4, 0.0).round().long()
    together = trained.sample(text_ids, known, generator=[torch.Generator().manual_seed(i) for i in range(4)])
    for i in range(4):
        alone = trained.sample(text_ids[i : i + 1], known[i : i + 1], generator=[torch.Generator().manual_seed(i)])
        torch.testing.assert_close(alone[0], together[i])


def test_whole_frames_keep_the_sum():
    durations = torch.tensor([0.4, 0.4, 0.4, 2.3, 1.5])
    assert whole_frames(durations).tolist() == [0, 1, 0, 2, 2]
    assert whole_frames(durations, 10).sum() == 10
    assert whole_frames(torch.tensor([0.1])).tolist() == [1]
