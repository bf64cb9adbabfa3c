"""Paired comparison of two arms over seeds and problems, with an interval and a verdict in words."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

Verdict = Literal["holds", "does not hold", "undecided"]


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
    seeds, problems = paired.shape
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for index in range(resamples):
        drawn = rng.integers(seeds, size=seeds)
        picked = rng.integers(problems, size=(seeds, problems))
        means[index] = paired[drawn[:, None], picked].mean()
    low, high = (float(x) for x in np.quantile(means, (0.025, 0.975)))
    verdict: Verdict = "holds" if low > 0 else "does not hold" if high < 0 else "undecided"
    return Comparison(float(paired.mean()), (low, high), seeds, verdict)
