"""Comparisons: what the interval covers and what the verdict says."""

import numpy as np
import pytest

from s2d_core.evaluation.bootstrap import compare


def draw(rng, seeds, problems, shift=0.0, seed_spread=0.0):
    ability = rng.random(problems)
    offsets = seed_spread * rng.standard_normal((seeds, 1))
    return (rng.random((seeds, problems, 4)) < np.clip(ability + shift + offsets, 0, 1)[..., None]).mean(axis=2)


def test_a_clear_difference_holds_and_its_mirror_does_not():
    rng = np.random.default_rng(0)
    better, worse = draw(rng, 3, 500, 0.2), draw(rng, 3, 500)
    assert compare(better, worse, resamples=500).verdict == "holds"
    mirrored = compare(worse, better, resamples=500)
    assert mirrored.verdict == "does not hold"
    assert mirrored.difference == pytest.approx(-compare(better, worse, resamples=500).difference)


def test_equals_are_undecided():
    rng = np.random.default_rng(1)
    one = draw(rng, 3, 200)
    assert compare(one, one, resamples=200).interval == (0.0, 0.0)
    assert compare(one, one, resamples=200).verdict == "undecided"


def test_seeds_that_disagree_widen_the_interval():
    rng = np.random.default_rng(2)
    base = draw(rng, 5, 400)
    agreeing = base + 0.1
    disagreeing = base + 0.1 + 0.2 * np.array([[1], [-1], [1], [-1], [0]])

    def width(first):
        low, high = compare(first, base, resamples=1000).interval
        return high - low

    assert width(disagreeing) > 5 * width(agreeing)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng, covered = np.random.default_rng(3), 0
    for trial in range(100):
        # The same problems, drawn anew; one seed: the interval is over problems.
        truth = 0.1
        ability = rng.uniform(0.2, 0.7, 200)
        first = (rng.random((1, 200, 8)) < (ability + truth)[..., None]).mean(axis=2)
        second = (rng.random((1, 200, 8)) < ability[..., None]).mean(axis=2)
        low, high = compare(first, second, resamples=300, seed=trial).interval
        covered += low <= truth <= high
    assert covered >= 87


def test_a_comparison_is_deterministic_and_counts_its_seeds():
    rng = np.random.default_rng(4)
    pair = draw(rng, 2, 50), draw(rng, 2, 50)
    assert compare(*pair, resamples=100) == compare(*pair, resamples=100)
    assert compare(*pair, resamples=100).seeds == 2
