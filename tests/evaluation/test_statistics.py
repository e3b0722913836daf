"""Bootstrap intervals against closed forms: their width, their coverage, and what pairing takes away."""

import numpy as np
import pytest

from dtm_hf.evaluation.statistics import Estimate, paired_difference, ratio

NAN = float("nan")


def ones(values):
    return np.ones_like(np.asarray(values, dtype=float))


def test_the_value_is_a_ratio_of_sums_and_not_a_mean_of_ratios():
    errors, words = np.array([[1.0, 0.0], [6.0, 5.0]]), np.array([[2.0, 2.0], [10.0, 10.0]])
    assert ratio(errors, words).value == pytest.approx(12 / 24)
    assert ratio(errors, words).n == 2


def test_the_interval_of_a_gaussian_mean_is_the_textbook_one():
    values = np.random.default_rng(0).normal(3.0, 2.0, (400, 1))
    estimate = ratio(values, ones(values))
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    narrow = ratio(values, ones(values), level=0.5)
    assert narrow.high - narrow.low == pytest.approx(2 * 0.6745 * half / 1.96, rel=0.1)


def test_intervals_cover_the_true_mean_as_often_as_they_say():
    rng = np.random.default_rng(1)
    trials = [rng.normal(1.0, 1.0, (50, 1)) for _ in range(300)]
    estimates = [ratio(values, ones(values), draws=300) for values in trials]
    covered = np.mean([e.low <= 1.0 <= e.high for e in estimates])
    # 95 % less what the percentile bootstrap loses with 50 items, within four standard errors.
    assert 0.88 < covered < 0.99


def test_seeds_of_an_item_are_no_independent_items():
    rng = np.random.default_rng(2)
    items = rng.normal(0.0, 1.0, (60, 1))
    values = items + rng.normal(0.0, 0.01, (60, 8))
    clustered, apart = ratio(values, ones(values)), ratio(values.reshape(-1, 1), ones(values).reshape(-1, 1))
    assert clustered.high - clustered.low == pytest.approx(np.sqrt(8) * (apart.high - apart.low), rel=0.2)


def test_pairing_removes_what_both_arms_share():
    rng = np.random.default_rng(3)
    hard = rng.normal(5.0, 2.0, (100, 1))
    a, b = (hard + shift + rng.normal(0.0, 0.1, (100, 3)) for shift in (0.2, 0.0))
    difference = paired_difference((a, ones(a)), (b, ones(b)))
    assert difference.value == pytest.approx(a.mean() - b.mean())
    assert 0 < difference.low < difference.value < difference.high
    # Of the mean difference of 300 pairs that differ by noise of 0.1 in each arm.
    assert difference.high - difference.low == pytest.approx(2 * 1.96 * 0.1 * np.sqrt(2 / 300), rel=0.25)
    alone = ratio(a, ones(a))
    assert alone.high - alone.low > 10 * (difference.high - difference.low)


def test_the_difference_of_an_arm_to_itself_is_zero_in_each_draw():
    values = np.random.default_rng(4).random((20, 2))
    assert paired_difference((values, 2 * values), (values, 2 * values)) == Estimate(0.0, 0.0, 0.0, 20)


def test_one_item_has_no_spread():
    assert ratio([[2.0, 4.0]], [[1.0, 1.0]]) == Estimate(3.0, 3.0, 3.0, 1)
    assert paired_difference(([[2.0]], [[1.0]]), ([[0.5]], [[1.0]])) == Estimate(1.5, 1.5, 1.5, 1)


def test_missing_figures_are_left_out_of_numerator_and_denominator():
    above, below = np.array([[1.0, NAN], [3.0, 100.0], [NAN, NAN]]), np.array([[2.0, 50.0], [2.0, NAN], [2.0, 2.0]])
    estimate = ratio(above, below)
    assert (estimate.value, estimate.n) == (4 / 4, 2)
    complete = ratio([[1.0], [3.0]], [[2.0], [2.0]])
    assert estimate == complete


def test_a_figure_missing_in_one_arm_is_left_out_of_both():
    a = np.array([[1.0, 2.0], [3.0, 4.0], [NAN, NAN]])
    b = np.array([[0.0, NAN], [1.0, 1.0], [9.0, 9.0]])
    difference = paired_difference((a, ones(a)), (b, ones(b)))
    assert difference.n == 2
    assert difference.value == pytest.approx((1 + 3 + 4) / 3 - (0 + 1 + 1) / 3)


def test_recordings_have_one_seed_beside_many():
    a, recordings = np.array([[1.0, 3.0], [5.0, NAN]]), np.array([[1.0], [2.0]])
    difference = paired_difference((a, ones(a)), (recordings, ones(recordings)))
    assert difference.value == pytest.approx(9 / 3 - (1 + 1 + 2) / 3)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(5).random((30, 3))
    assert ratio(values, ones(values), seed=1) == ratio(values, ones(values), seed=1)
    assert ratio(values, ones(values), seed=1) != ratio(values, ones(values), seed=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), r"`numerators` must have shape \(items, seeds\), none of them 0, but got \(0,\)"),
        ((np.ones((0, 3)), np.ones((0, 3))), r"`numerators` .* but got \(0, 3\)"),
        ((np.ones(3), np.ones(3)), r"`numerators` .* but got \(3,\)"),
        ((np.ones((3, 2)), np.ones((2, 2))), r"`denominators` has shape \(2, 2\)"),
        ((np.ones((3, 2)), np.ones((3, 4))), r"does not fit|`numerators` has shape"),
        (([[NAN]], [[1.0]]), "`numerators`, `denominators` have no figure in common"),
        (([[1.0]], [[0.0]]), "`denominators` must be positive for each item, but one adds up to 0.0"),
        (([[np.inf]], [[1.0]]), "`numerators` must hold finite figures"),
        (([[1.0]], [[1.0]], 0), "`draws` must be at least 1, but got 0"),
        (([[1.0]], [[1.0]], 10, 0, 1.0), r"`level` must lie in \(0, 1\), but got 1.0"),
    ],
)
def test_what_cannot_be_estimated_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ratio(*arguments)


def test_arms_with_other_items_are_refused():
    with pytest.raises(ValueError, match=r"`b\[0\]` has shape \(3, 1\), which does not fit `a\[0\]`"):
        paired_difference((np.ones((2, 1)), np.ones((2, 1))), (np.ones((3, 1)), np.ones((3, 1))))


def test_a_transform_is_applied_to_both_ratios_in_each_draw():
    a, b = (np.array([[0.7], [0.8]]), np.ones((2, 1))), (np.array([[1.2], [1.1]]), np.ones((2, 1)))
    found = paired_difference(a, b, transform=lambda ratios: abs(ratios - 1))
    assert found.value == pytest.approx(0.25 - 0.15)
    # Each draw lies between the two items' own differences, 0.3 - 0.2 and 0.2 - 0.1.
    assert found.low == pytest.approx(0.1) and found.high == pytest.approx(0.1)
