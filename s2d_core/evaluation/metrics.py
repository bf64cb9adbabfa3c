"""Accuracy from correctness: avg@k, pass@k, maj@k, greedy, with standard errors over problems. Pure numpy."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.special import gammaln

Correct = Float[np.ndarray, "problems samples"]  # 1.0 where the sample is right


def avg_at_k(correct: Correct) -> Float[np.ndarray, "problems"]:
    """Share of each problem's samples that are right."""
    return correct.mean(axis=1)


def pass_at_k(correct: Correct, k: int) -> Float[np.ndarray, "problems"]:
    """Unbiased chance that at least one of ``k`` samples is right: 1 − C(n − c, k) / C(n, k) (arXiv 2107.03374, Eq. 1).

    Raises ValueError when there are fewer than ``k`` samples.
    """
    n = correct.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs at least {k} samples a problem, there are {n}")
    wrong = n - correct.sum(axis=1)
    with np.errstate(invalid="ignore"):
        log_all_wrong = _log_choose(wrong, k) - _log_choose(np.full_like(wrong, n), k)
    return 1.0 - np.where(wrong >= k, np.exp(np.where(wrong >= k, log_all_wrong, 0.0)), 0.0)


def maj_at_k(correct: Correct, answers: Sequence[Sequence[str | None]]) -> Float[np.ndarray, "problems"]:
    """1.0 where the most frequent answer is right (self-consistency, arXiv 2203.11171); ties go to the first
    answer given.

    answers: each sample's answer as text, [problems][samples]; equal answers spelled apart count apart. Samples
    without one (None) have no vote; a problem where none has one is wrong.
    """
    majority = np.zeros(len(correct))
    for index, given in enumerate(answers):
        votes = Counter(answer for answer in given if answer is not None)
        if votes:
            winner = max(votes, key=votes.__getitem__)  # the first of equals, in order of first appearance
            majority[index] = correct[index, list(given).index(winner)]
    return majority


def standard_error(values: Float[np.ndarray, "problems"]) -> float:
    """Standard error of the mean over problems, ddof = 1; 0 for a single problem."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def accuracy_metrics(
    correct: Correct,
    greedy: Float[np.ndarray, "problems"],
    answers: Sequence[Sequence[str | None]],
    pass_k: int,
) -> dict[str, float]:
    """What an evaluation's manifest says; fractions. ``answers``: see ``maj_at_k``."""
    average = avg_at_k(correct)
    passed = pass_at_k(correct, pass_k)
    majority = maj_at_k(correct, answers)
    return {
        "avg_at_k": float(average.mean()),
        "stderr": standard_error(average),
        "k": float(correct.shape[1]),
        "greedy": float(greedy.mean()),
        "greedy_stderr": standard_error(greedy),
        "pass_at_k": float(passed.mean()),
        "pass_at_k_stderr": standard_error(passed),
        "maj_at_k": float(majority.mean()),
        "maj_at_k_stderr": standard_error(majority),
        "problems": float(len(correct)),
    }


def _log_choose(n: np.ndarray, k: int) -> np.ndarray:
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
