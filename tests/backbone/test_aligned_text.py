"""A backbone that is told how long each token lasts."""

import pytest
import torch

from dtm_hf.backbone.aligned_text import repeat_tokens
from dtm_hf.backbone.backbone_f5 import F5Backbone
from dtm_hf.training.objectives.arguments import ConditioningArguments
from dtm_hf.training.objectives.conditioning import MelBatch
from dtm_hf.training.objectives.flow_matching import FlowMatchingObjective


@pytest.fixture(scope="module")
def aligned() -> F5Backbone:
    torch.manual_seed(0)
    backbone = F5Backbone(
        dim=32, depth=1, heads=1, ff_mult=1, text_num_embeds=9, text_dim=16, conv_layers=2, text_alignment="durations"
    )
    for parameter in backbone.parameters():
        # What F5 starts at zero would hide the text.
        torch.nn.init.normal_(parameter, std=0.1)
    return backbone


def test_tokens_stand_in_their_frames():
    embeds = torch.arange(1.0, 7.0).view(2, 3, 1)
    durations = torch.tensor([[2, 0, 3], [1, 1, 0]])
    repeated = repeat_tokens(embeds, durations, 6)[..., 0]
    assert repeated.tolist() == [[1, 1, 3, 3, 3, 0], [4, 5, 0, 0, 0, 0]]
    assert repeat_tokens(embeds, durations, 2)[..., 0].tolist() == [[1, 1], [4, 5]]


def test_text_sees_whole_words_and_lies_where_it_is_spoken(aligned):
    text_ids, durations = torch.tensor([[1, 2, 3]]), torch.tensor([[4, 2, 6]])
    embeds = aligned.encode_text(text_ids, None, 12, durations=durations)
    frames = embeds.cond[0]
    assert torch.equal(frames[:4], frames[:1].expand(4, -1)) and torch.equal(frames[6:], frames[6:7].expand(6, -1))
    assert not torch.allclose(frames[3], frames[4])
    other = aligned.encode_text(torch.tensor([[1, 2, 5]]), None, 12, durations=durations).cond[0]
    # The convolutions of F5's text encoder come before the tokens are repeated.
    assert not torch.allclose(frames[0], other[0])
    assert not embeds.null.any()


def test_a_batch_equals_its_rows(aligned):
    text_ids = torch.tensor([[1, 2, 3, 4], [5, 6, -1, -1]])
    durations = torch.tensor([[3, 2, 2, 3], [4, 2, 0, 0]])
    mask = torch.arange(10) < torch.tensor([[10], [6]])
    x, cond = torch.randn(2, 10, 100), torch.zeros(2, 10, 100)
    together = aligned(x, 0.5, cond, text_ids, mask, "both", durations=durations).velocity
    for row, (frames, tokens) in enumerate([(10, 4), (6, 2)]):
        alone = aligned(
            x[row : row + 1, :frames],
            0.5,
            cond[row : row + 1, :frames],
            text_ids[row : row + 1, :tokens],
            branch="both",
            durations=durations[row : row + 1, :tokens],
        ).velocity
        torch.testing.assert_close(together[row::2, :frames], alone, rtol=1e-4, atol=1e-5)


def test_dropped_text_leaves_no_trace_of_the_times(aligned):
    x, cond = torch.randn(1, 10, 100), torch.zeros(1, 10, 100)
    drop = torch.tensor([True])
    ids = torch.tensor([[1, 2, 3, 4]])
    one = aligned(x, 0.3, cond, ids, drop_text=drop, durations=torch.tensor([[3, 2, 2, 3]])).velocity
    other = aligned(x, 0.3, cond, ids, drop_text=drop, durations=torch.tensor([[1, 1, 4, 4]])).velocity
    null = aligned(x, 0.3, cond, ids, branch="null", durations=torch.tensor([[3, 2, 2, 3]])).velocity
    assert torch.equal(one, other) and torch.equal(one, null)


def test_trains_on_durations(aligned):
    objective = FlowMatchingObjective(ConditioningArguments(t_sampling="uniform"))
    aligned.unfreeze().train()
    try:
        batch = MelBatch(
            torch.randn(2, 10, 100),
            torch.ones(2, 10, dtype=torch.bool),
            torch.tensor([[1, 2, 3, 4], [5, 6, -1, -1]]),
            torch.zeros(2, dtype=torch.long),
            torch.tensor([[3, 2, 2, 3], [4, 6, 0, 0]]),
        )
        objective.loss(aligned, batch, torch.Generator().manual_seed(1)).loss.backward()
        assert aligned.dit.text_embed.text_embed.weight.grad.abs().sum() > 0
        assert set(objective.probe(aligned, batch)) == {"loss_right_text", "loss_wrong_text"}
    finally:
        aligned.freeze()


@pytest.mark.parametrize("durations", [None, torch.ones(1, 2, dtype=torch.long)])
def test_refuses_text_without_durations(aligned, durations):
    with pytest.raises(ValueError, match=r"`durations` must have the shape of `text_ids`, \(1, 3\)"):
        aligned.encode_text(torch.tensor([[1, 2, 3]]), None, 6, durations=durations)


def test_refuses_durations_that_nobody_asked_for():
    backbone = F5Backbone(dim=32, depth=1, heads=1, ff_mult=1, text_num_embeds=9, text_dim=16, conv_layers=0)
    with pytest.raises(ValueError, match="`durations` are for a backbone"):
        backbone.encode_text(torch.tensor([[1]]), None, 6, durations=torch.tensor([[6]]))
    with pytest.raises(ValueError, match="`text_alignment`"):
        F5Backbone(dim=32, depth=1, heads=1, text_num_embeds=9, text_dim=16, text_alignment="forced")
