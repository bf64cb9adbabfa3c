"""What the distances are summed up to: the share of few tokens, the KL by position."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2d_core.stages.distance import EXACT, by_position, top_share


def test_the_largest_hundredth_of_the_tokens_and_what_it_carries():
    assert top_share(np.array([1.0] * 199 + [201.0])) == pytest.approx((201 + 1) / 400)
    assert top_share(np.ones(1000)) == pytest.approx(0.01)
    assert top_share(np.zeros(10)) == 0.0
    assert top_share(np.array([3.0])) == 1.0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300))
def test_the_share_is_at_least_that_of_equal_tokens_and_at_most_all(sizes):
    share = top_share(np.array(sizes))
    assert share == 0.0 or 0.01 - 1e-9 <= share <= 1.0 + 1e-9


@given(st.lists(st.tuples(st.integers(0, 5000), st.floats(0, 10)), min_size=1, max_size=200))
def test_bins_lose_no_token_and_keep_the_mean(pairs):
    positions, values = (np.array(column) for column in zip(*pairs, strict=True))
    rows = by_position(positions, values.astype(float))
    assert sum(row["tokens"] for row in rows) == len(pairs)
    assert sum(row["tokens"] * row["mean"] for row in rows) == pytest.approx(float(values.sum()), abs=1e-6)
    starts = [row["from"] for row in rows]
    assert starts == sorted(set(starts))


def test_the_first_positions_have_bins_of_their_own():
    rows = by_position(np.arange(4 * EXACT), np.zeros(4 * EXACT))
    assert [row["from"] for row in rows[:EXACT]] == list(range(EXACT))
    assert len(rows) == EXACT + 16  # eight bins a doubling, two doublings
