"""Accuracies against hand-worked numbers and enumeration."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2d_core.evaluation.metrics import accuracy_metrics, avg_at_k, maj_at_k, pass_at_k, standard_error

CORRECT = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=float)
ANSWERS = [["7", "8", "9", "7"], [None, "1", None, None], ["3", "3", "3", "3"]]


def test_avg_at_k_is_each_problem_s_share():
    assert avg_at_k(CORRECT).tolist() == [0.5, 0.0, 1.0]


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=7), st.integers(1, 7))
def test_pass_at_k_is_the_mean_over_all_subsets_of_k_samples(samples, k):
    if k > len(samples):
        with pytest.raises(ValueError, match=f"pass@{k}"):
            pass_at_k(np.array([samples]), k)
        return
    subsets = list(itertools.combinations(samples, k))
    expected = sum(max(subset) for subset in subsets) / len(subsets)
    assert pass_at_k(np.array([samples]), k)[0] == pytest.approx(expected)


def test_the_standard_error_is_over_problems_with_one_degree_of_freedom_less():
    assert standard_error(np.array([0.0, 1.0, 1.0, 0.0])) == pytest.approx(np.sqrt(1 / 3) / 2)
    assert standard_error(np.array([0.3])) == 0.0


def test_the_manifest_s_metrics_name_every_accuracy():
    metrics = accuracy_metrics(CORRECT, np.array([1.0, 0.0, 1.0]), ANSWERS, pass_k=2)
    assert metrics["avg_at_k"] == 0.5
    assert metrics["k"] == 4
    assert metrics["greedy"] == pytest.approx(2 / 3)
    assert metrics["pass_at_k"] == pytest.approx((5 / 6 + 0 + 1) / 3)
    assert metrics["maj_at_k"] == pytest.approx(2 / 3)
    assert metrics["maj_at_k_stderr"] == pytest.approx(1 / 3)
    assert metrics["problems"] == 3


def test_maj_at_k_takes_the_most_frequent_answer_and_the_first_of_equals():
    assert maj_at_k(CORRECT, ANSWERS).tolist() == [1.0, 0.0, 1.0]
    tied, right_first, right_last = np.array([[1.0, 0.0]]), [["5", "6"]], [["6", "5"]]
    assert maj_at_k(tied, right_first).tolist() == [1.0]
    assert maj_at_k(tied[:, ::-1], right_last).tolist() == [0.0]


def test_samples_without_an_answer_have_no_vote():
    assert maj_at_k(np.array([[0.0, 0.0, 1.0]]), [[None, None, "4"]]).tolist() == [1.0]
    assert maj_at_k(np.array([[0.0, 0.0]]), [[None, None]]).tolist() == [0.0]
