"""Guidance as an object: which branches run when, and what is made of them."""

import logging
from types import SimpleNamespace

import pytest
import torch

from dtm_hf.pipelines.guidance import BakedGuidance, ClassifierFreeGuidance, Guidance, choose_guidance

PLAIN_HEAD = SimpleNamespace(guidance_scale=None, guidance_scale_range=None)
BAKED_HEAD = SimpleNamespace(guidance_scale=2.0, guidance_scale_range=None)
RANGE_HEAD = SimpleNamespace(guidance_scale=2.0, guidance_scale_range=[1.0, 3.0])


def test_both_branches_run_from_start_to_stop():
    guidance = ClassifierFreeGuidance(3.0, start=0.2, stop=0.6)
    ran = [guidance.branch(t) == "both" for t in (0.0, 0.19, 0.2, 0.5, 0.6, 1.0)]
    assert ran == [False, False, True, True, False, False]
    assert {ClassifierFreeGuidance(scale).branch(0.0) for scale in (-1.0, 0.0, 1.0)} == {"cond"}
    assert {guidance.branch(0.3) for guidance in (Guidance(), BakedGuidance(3.0))} == {"cond"}


def test_the_rule_is_that_of_f5_tts():
    conditional, null = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 3.0]])
    combined = ClassifierFreeGuidance(3.0).combine(torch.cat([conditional, null]))
    # cfm.py: pred + (pred - null_pred) * cfg_strength, with cfg_strength 2.
    assert torch.equal(combined, torch.tensor([[2.0, 0.0]]))


@pytest.mark.parametrize(
    ("asked", "head", "is_student", "expected"),
    [
        (None, None, False, ClassifierFreeGuidance(3.0)),
        (1.0, PLAIN_HEAD, False, ClassifierFreeGuidance(1.0)),
        (None, BAKED_HEAD, False, BakedGuidance(2.0)),
        (2, BAKED_HEAD, False, BakedGuidance(2.0)),
        (None, RANGE_HEAD, False, BakedGuidance(2.0)),
        (2.5, RANGE_HEAD, False, BakedGuidance(2.5)),
        (None, None, True, Guidance()),
        (1.0, None, True, Guidance()),
    ],
)
def test_the_one_that_fits_the_networks_is_chosen(asked, head, is_student, expected):
    guidance = choose_guidance(asked, 1.0, head, is_student)
    assert guidance == expected
    assert guidance.head_scale == (guidance.scale if isinstance(guidance, BakedGuidance) else None)


def test_its_end_is_that_of_the_call():
    assert choose_guidance(2.0, 0.3) == ClassifierFreeGuidance(2.0, stop=0.3)


def test_another_scale_than_the_baked_one_is_ignored_with_a_word(caplog):
    with caplog.at_level(logging.WARNING):
        assert choose_guidance(3.0, 1.0, BAKED_HEAD) == BakedGuidance(2.0)
    assert "`guidance_scale` 3.0 is ignored: this head has 2.0 baked in" in caplog.text


@pytest.mark.parametrize(
    ("asked", "stop", "head", "is_student", "error", "message"),
    [
        ("3", 1.0, None, False, TypeError, "`guidance_scale` must be a number, but got '3'"),
        (2.0, 1.5, None, False, ValueError, r"`guidance_end` must lie in \[0, 1\], but got 1.5"),
        (3.5, 1.0, RANGE_HEAD, False, ValueError, r"`guidance_scale` must lie in \[1.0, 3.0\].*3.5"),
        (2.0, 1.0, None, True, ValueError, "`guidance_scale` must be left out for a student.*but got 2.0"),
    ],
)
def test_what_cannot_be_followed_is_refused(asked, stop, head, is_student, error, message):
    with pytest.raises(error, match=message):
        choose_guidance(asked, stop, head, is_student)


def test_a_scale_changes_where_the_loop_guides():
    guidance = ClassifierFreeGuidance(2.0, stop=0.5)
    assert guidance.rescaled(4.0) == ClassifierFreeGuidance(4.0, stop=0.5)
    assert guidance.rescaled(1.0).branch(0.1) == "cond"
    for fixed in (Guidance(), BakedGuidance(2.0)):
        with pytest.raises(ValueError, match="`guidance_scale` is fixed for this call"):
            fixed.rescaled(3.0)


def test_with_the_mean_of_the_data_the_first_step_needs_one_branch():
    guidance = ClassifierFreeGuidance(3.0, mean=(1.0, -1.0))
    assert [guidance.branch(t) for t in (0.0, 0.1)] == ["cond", "both"]
    x, answer = torch.randn(2, 4, 2), torch.randn(2, 4, 2)
    null = torch.tensor([1.0, -1.0]) - x
    torch.testing.assert_close(guidance.velocity(answer, x, 0.0), answer + 2 * (answer - null))
    for unguided in (
        ClassifierFreeGuidance(1.0, mean=(1.0, -1.0)),
        ClassifierFreeGuidance(3.0, 0.1, mean=(1.0, -1.0)),
    ):
        assert torch.equal(unguided.velocity(answer, x, 0.0), answer)


def test_a_rule_of_ones_own_is_taken_where_nothing_is_baked_in():
    rule = ClassifierFreeGuidance(2.0, start=0.1)
    assert choose_guidance(rule, 1.0) is rule
    for baked in ({"head_config": BAKED_HEAD}, {"is_student": True}):
        with pytest.raises(ValueError, match="`guidance_scale` must be a number or left out"):
            choose_guidance(rule, 1.0, **baked)
