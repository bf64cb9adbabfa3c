"""Paired comparison of two arms over seeds and problems, with an interval and a verdict in words."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

Verdict = Literal["holds", "does not hold", "undecided"]
DIGITS = 12  # differences that agree in so many decimals are the same value


@dataclass(frozen=True)
class Comparison:
    """``difference`` of means and its 95 % ``interval`` (fractions), over ``seeds`` seeds."""

    difference: float
    interval: tuple[float, float]
    seeds: int
    verdict: Verdict


def compare(
    first: Float[np.ndarray, "seeds problems"],
    second: Float[np.ndarray, "seeds problems"],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """``first − second``, paired by seed and problem.

    Hierarchical bootstrap (Davison & Hinkley 1997, §3.8): seeds are drawn with replacement, then problems within each
    drawn seed. With one seed the interval is over problems only. The claim "first > second" holds when the whole
    interval is above 0, does not hold when it is below, and is undecided otherwise.
    """
    paired = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(paired), size=(resamples, len(paired)))
    means = np.empty(drawn.shape)
    for index, differences in enumerate(paired):
        means[drawn == index] = _resampled_means(differences, int((drawn == index).sum()), rng)
    low, high = (float(x) for x in np.quantile(means.mean(axis=1), (0.025, 0.975)))
    verdict: Verdict = "holds" if low > 0 else "does not hold" if high < 0 else "undecided"
    return Comparison(float(paired.mean()), (low, high), len(paired), verdict)


def _resampled_means(
    values: Float[np.ndarray, "problems"], count: int, rng: np.random.Generator
) -> Float[np.ndarray, "count"]:
    """``count`` means of ``len(values)`` draws with replacement.

    How often each distinct value is drawn is multinomial, and avg@k leaves at most 2k + 1 distinct differences: so
    nothing of the size of the draws is ever made.
    """
    distinct, counts = np.unique(np.round(values, DIGITS), return_counts=True)
    drawn = rng.multinomial(len(values), counts / len(values), size=count)
    return (drawn * distinct).sum(axis=1) / len(values)  # no BLAS: the same bits on any number of threads
