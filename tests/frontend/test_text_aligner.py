"""The aligner: its paths against all paths counted one by one, and a text that it must find in a signal."""

from itertools import combinations

import numpy as np
import pytest
import torch

from dtm_hf.frontend.text_aligner import TextAligner, log_priors, monotonic_durations
from dtm_hf.training.objectives import alignment
from dtm_hf.training.objectives.alignment import AlignmentObjective, forward_sum_loss
from dtm_hf.training.objectives.conditioning import MelBatch


def all_durations(frames: int, tokens: int):
    """Every way to give each of `tokens` a frame at least."""
    for cuts in combinations(range(1, frames), tokens - 1):
        yield np.diff([0, *cuts, frames])


@pytest.mark.parametrize("seed", range(4))
def test_best_path_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    sizes = [(7, 3), (5, 5), (6, 1), (8, 4)]
    scores = np.full((len(sizes), 8, 5), -np.inf, dtype=np.float32)
    for row, (frames, tokens) in zip(scores, sizes, strict=True):
        row[:frames, :tokens] = rng.normal(size=(frames, tokens))
    frames, tokens = np.array(sizes).T
    found = monotonic_durations(scores, frames, tokens)
    for row, durations, (n, k) in zip(scores, found, sizes, strict=True):
        best = max(all_durations(n, k), key=lambda each: row[np.arange(n), np.repeat(np.arange(k), each)].sum())
        assert durations[:k].tolist() == best.tolist()
        assert not durations[k:].any()


def test_fewer_frames_than_tokens_end_where_the_frames_end():
    durations = monotonic_durations(np.zeros((1, 3, 5), dtype=np.float32), np.array([3]), np.array([5]))
    assert durations.sum() == 3
    assert durations.max() == 1


def test_forward_sum_counts_every_path(monkeypatch):
    scores = torch.randn(1, 6, 3, generator=torch.Generator().manual_seed(0))
    # A blank that weighs nothing: what is left are the paths over tokens.
    log_probs = torch.log_softmax(scores, dim=-1)[0]
    paths = torch.stack(
        [
            log_probs[torch.arange(6), torch.arange(3).repeat_interleave(torch.tensor(each))].sum()
            for each in all_durations(6, 3)
        ]
    )
    monkeypatch.setattr(alignment, "_BLANK_LOG_WEIGHT", -1e4)
    loss = forward_sum_loss(scores, torch.tensor([6]), torch.tensor([3]))
    torch.testing.assert_close(loss[0], -paths.logsumexp(0), rtol=1e-4, atol=1e-4)


def test_prior_is_a_distribution_that_walks_from_the_first_token_to_the_last():
    prior = log_priors(torch.tensor([9, 4]), torch.tensor([4, 2]), (9, 4), torch.device("cpu")).exp()
    torch.testing.assert_close(prior[0].sum(-1), torch.ones(9))
    torch.testing.assert_close(prior[1, :4, :2].sum(-1), torch.ones(4))
    assert prior[0].argmax(-1).tolist() == sorted(prior[0].argmax(-1).tolist())
    assert prior[0, 0].argmax() == 0 and prior[0, -1].argmax() == 3


def spoken(durations: torch.Tensor, text_ids: torch.Tensor, voices: torch.Tensor) -> torch.Tensor:
    """A signal in which each token has a sound of its own."""
    rows = [
        voices[ids[ids >= 0]].repeat_interleave(each[ids >= 0], dim=0)
        for ids, each in zip(text_ids, durations, strict=True)
    ]
    mel = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return mel + 0.3 * torch.randn(mel.shape)


def test_learns_where_tokens_are_and_a_batch_equals_its_rows():
    torch.manual_seed(0)
    aligner, voices = TextAligner(num_tokens=8, mel_dim=12, hidden_size=32, embedding_size=16), torch.randn(8, 12) * 2
    optimizer = torch.optim.AdamW(aligner.parameters(), lr=3e-3)

    def batch(size: int):
        lengths = torch.randint(5, 9, (size, 1))
        # No token twice in a row: between two of the same there is nothing to find.
        steps = torch.randint(1, 8, (size, 8))
        text_ids = (steps.cumsum(1) % 8).masked_fill(torch.arange(8) >= lengths, -1)
        durations = torch.randint(3, 9, text_ids.shape).masked_fill(text_ids < 0, 0)
        mask = torch.arange(int(durations.sum(1).max())) < durations.sum(1, keepdim=True)
        return MelBatch(spoken(durations, text_ids, voices), mask, text_ids, torch.zeros(size)), durations

    for _ in range(150):
        loss = AlignmentObjective().loss(aligner, batch(16)[0]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found_in, durations = batch(8)
    found = aligner.align(found_in.mel, found_in.attention_mask, found_in.text_ids)
    assert torch.equal(found.sum(1), durations.sum(1))
    assert (found.cumsum(1) - durations.cumsum(1)).abs().float().mean() < 1.0
    # An even spread is further off.
    tokens = (found_in.text_ids >= 0).sum(1, keepdim=True)
    even = (torch.arange(1, 9).clamp(max=tokens) * durations.sum(1, keepdim=True) / tokens).round()
    assert (found.cumsum(1) - durations.cumsum(1)).abs().sum() < (even - durations.cumsum(1)).abs().sum()
    for row in range(8):
        frames, tokens = int(durations[row].sum()), int((found_in.text_ids[row] >= 0).sum())
        alone = aligner.align(
            found_in.mel[row : row + 1, :frames],
            torch.ones(1, frames, dtype=torch.bool),
            found_in.text_ids[row : row + 1, :tokens],
        )
        assert torch.equal(alone[0], found[row, :tokens])


def test_is_saved_and_loaded(tmp_path):
    aligner = TextAligner(num_tokens=8, mel_dim=12, hidden_size=16, embedding_size=8)
    aligner.save_pretrained(tmp_path)
    loaded = TextAligner.from_pretrained(tmp_path)
    mel, ids = torch.randn(1, 9, 12), torch.tensor([[0, 1, 2]])
    mask = torch.ones(1, 9, dtype=torch.bool)
    torch.testing.assert_close(loaded(mel, mask, ids), aligner(mel, mask, ids))
