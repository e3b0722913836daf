"""How codes are drawn."""

import pytest
import torch

from dtm_hf.trm.decoding import draw_codes, logits_warpers


def test_codes_are_drawn_as_their_distribution_has_them():
    logits = torch.tensor([0.0, 1.0, 2.0, -30.0]).expand(1, 20000, 4)
    point = torch.rand(1, 20000, generator=torch.Generator().manual_seed(0))
    codes, log_probs = draw_codes(logits, logits_warpers(1.0, None), point)
    expected = logits[0, 0].softmax(dim=0)
    found = torch.bincount(codes[0], minlength=4) / 20000
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)
    torch.testing.assert_close(log_probs, logits.log_softmax(-1).gather(-1, codes[..., None])[..., 0])


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [((0.8, 2, None), {1, 2}), ((1.0, None, 0.6), {2}), ((0.1, None, None), {2})],
)
def test_warpers_are_those_of_transformers(arguments, allowed):
    logits = torch.tensor([0.0, 1.0, 2.0, -30.0]).expand(1, 2000, 4)
    point = torch.rand(1, 2000, generator=torch.Generator().manual_seed(0))
    assert set(draw_codes(logits, logits_warpers(*arguments), point)[0].flatten().tolist()) <= allowed | {1}


def test_without_a_draw_the_likeliest_is_taken():
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw_codes(logits, logits_warpers(0), None)[0], logits.argmax(-1))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"temperature": -1}, "`temperature` must be at least 0"),
        ({"top_k": 0}, "`top_k` must be at least 1"),
        ({"top_p": 1.5}, r"`top_p` must lie in \(0, 1\]"),
    ],
)
def test_impossible_draws_are_refused(arguments, told):
    with pytest.raises(ValueError, match=told):
        logits_warpers(**arguments)
