"""The mean log-mel by frame: what a configuration may say of it, and the closed form of guidance that it gives."""

import numpy as np
import pytest
import torch

from dtm_hf.backbone.closed_form import guided_at_zero
from dtm_hf.mean_mel import MeanMel

ENDS = {"mean": [1.0, -1.0], "edge": [-3.0, -5.0], "first": [1.0, 0.5], "last": [0.75]}


def expected(length):
    """Of one utterance, `(N, 2)`, written out."""
    shares = torch.zeros(length)
    shares[0], shares[1], shares[length - 1] = 1.0, 0.5, 0.75
    return torch.tensor(ENDS["mean"]) - 4.0 * shares[:, None]


def test_at_zero_the_null_branch_aims_at_the_mean_and_at_silence_at_the_ends():
    answer, x = torch.randn(2, 6, 2), torch.randn(2, 6, 2)
    null = expected(6) - x
    torch.testing.assert_close(guided_at_zero(answer, x, 3.0, ENDS), answer + 2 * (answer - null))
    flat = torch.tensor(ENDS["mean"]) - x
    for mean in (ENDS["mean"], {"mean": ENDS["mean"]}, MeanMel.of(ENDS["mean"])):
        torch.testing.assert_close(guided_at_zero(answer, x, 3.0, mean), answer + 2 * (answer - flat))


def test_an_utterance_ends_where_its_frames_do():
    """In a padded batch as alone, with torch and without."""
    answer, x = torch.randn(2, 6, 2), torch.randn(2, 6, 2)
    mask = torch.arange(6)[None] < torch.tensor([4, 6])[:, None]
    padded = guided_at_zero(answer, x, 3.0, ENDS, mask)
    alone = guided_at_zero(answer[:1, :4], x[:1, :4], 3.0, ENDS)
    torch.testing.assert_close(padded[:1, :4], alone)
    torch.testing.assert_close(padded[1:], guided_at_zero(answer[1:], x[1:], 3.0, ENDS))
    of_numpy = guided_at_zero(answer.numpy(), x.numpy(), 3.0, ENDS, mask.numpy())
    assert of_numpy.dtype == np.float32
    np.testing.assert_allclose(of_numpy, padded.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        guided_at_zero(answer.numpy(), x.numpy(), 3.0, ENDS), guided_at_zero(answer, x, 3.0, ENDS).numpy(), rtol=1e-5
    )


def test_ends_that_meet_are_silence_and_no_more():
    x = torch.zeros(1, 1, 2)
    torch.testing.assert_close(guided_at_zero(x, x, 2.0, ENDS), -torch.tensor(ENDS["edge"]).expand(1, 1, 2))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1.0], "`mean_mel` must be 2 finite numbers"),
        ([1.0, float("nan")], "`mean_mel` must be 2 finite numbers"),
        ("12", "`mean_mel` must be 2 finite numbers"),
        (3, "`mean_mel` must be 2 finite numbers"),
        ([True, 1.0], "`mean_mel` must be 2 finite numbers"),
        ({"edge": [1.0, 2.0]}, "must be a list of numbers, or have 'mean', 'edge', 'first' and 'last', but has"),
        (ENDS | {"middle": [1.0]}, "must be a list of numbers, or have 'mean', 'edge', 'first' and 'last', but has"),
        (ENDS | {"edge": [1.0]}, r"`mean_mel`\['edge'\] must be 2 finite numbers"),
        ({"edge": [1.0, 2.0], "first": [], "last": [], "mean": 3}, "`mean_mel` must be 2 finite numbers"),
        (ENDS | {"last": ["a"]}, r"`mean_mel`\['last'\] must be finite numbers"),
    ],
)
def test_what_is_no_mean_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        MeanMel.of(value, 2)
