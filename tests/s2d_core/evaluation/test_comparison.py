"""Comparisons: what the interval covers and what the verdict says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from s2d_core.evaluation.comparison import compare, estimate

TRUTH = 0.05


def draw(rng, seeds, problems, seed_spread, interaction=0.0, k=4):
    """Mean correctness [seeds, problems] of two arms TRUTH apart, each seed of each with its own luck in training."""
    ability = rng.uniform(0.2, 0.7, problems)
    gain = TRUTH + interaction * rng.standard_normal(problems)
    arms = []
    for level in (ability + gain, ability):
        luck = seed_spread * rng.standard_normal((seeds, 1))
        arms.append(rng.binomial(k, np.clip(level + luck, 0, 1), (seeds, problems)) / k)
    return arms


def coverage(seeds, problems, seed_spread, interaction=0.0, trials=600):
    rng = np.random.default_rng(seeds)
    intervals = [compare(*draw(rng, seeds, problems, seed_spread, interaction)).interval for _ in range(trials)]
    return np.mean([low <= TRUTH <= high for low, high in intervals])


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("seed_spread", [0.0, 0.01, 0.02])
@pytest.mark.parametrize("interaction", [0.0, 0.1])
def test_the_interval_covers_the_truth_at_least_as_often_as_it_says(seeds, seed_spread, interaction):
    assert coverage(seeds, 500, seed_spread, interaction) >= 0.93


def test_one_seed_covers_new_problems_but_not_new_trainings():
    assert coverage(1, 500, seed_spread=0.0) >= 0.93
    assert coverage(1, 500, seed_spread=0.02) < 0.8


def test_the_interval_is_not_much_wider_than_it_must_be():
    rng = np.random.default_rng(0)
    low, high = np.mean([compare(*draw(rng, 5, 1000, 0.01)).interval for _ in range(50)], axis=0)
    assert high - low < 0.05  # 2 · t(4) · 0.01 · sqrt(2 / 5) is 0.035, and the problems add to it


def test_a_clear_difference_holds_and_its_mirror_does_not():
    rng = np.random.default_rng(0)
    first, second = draw(rng, 3, 500, 0.0)
    better = first + 0.1
    assert compare(better, second).verdict() == "holds"
    assert compare(second, better).verdict() == "does not hold"
    assert compare(second, better).mean == pytest.approx(-compare(better, second).mean)


def test_the_verdict_asks_for_a_margin_where_one_is_given():
    rng = np.random.default_rng(1)
    values = np.full((3, 400), 0.05) + 0.05 * rng.standard_normal((3, 400))
    assert [estimate(values).verdict(over) for over in (0.0, 0.05, 0.1)] == ["holds", "undecided", "does not hold"]


def test_equals_are_undecided():
    one = draw(np.random.default_rng(1), 3, 200, 0.0)[0]
    assert compare(one, one).interval == (0.0, 0.0)
    assert compare(one, one).verdict() == "undecided"


def test_one_seed_is_the_t_interval_over_its_problems():
    values = np.random.default_rng(5).random((1, 40))
    low, high = ttest_1samp(values[0], 0.0).confidence_interval()
    assert estimate(values).interval == pytest.approx((low, high))


def test_seeds_that_differ_by_far_more_than_problems_give_the_t_interval_over_seeds():
    seeds = np.array([0.1, 0.5, 0.9])
    low, high = ttest_1samp(seeds, 0.0).confidence_interval()
    assert estimate(np.repeat(seeds[:, None], 100, axis=1)).interval == pytest.approx((low, high))


@given(st.integers(1, 4), st.integers(1, 6), st.randoms(use_true_random=False))
def test_the_mean_lies_in_its_interval_whatever_the_shape(seeds, problems, random):
    values = np.array([[random.random() for _ in range(problems)] for _ in range(seeds)])
    result = estimate(values)
    assert result.interval[0] <= result.mean <= result.interval[1]
    assert result.mean == pytest.approx(values.mean())
    assert result.seeds == seeds


def test_a_comparison_is_deterministic():
    pair = draw(np.random.default_rng(4), 2, 50, 0.0)
    assert compare(*pair) == compare(*pair)
