"""Slices of the labelled pool by name and by fractions."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2d_core.data.slices import check_slice, slice_name, slice_range

SIZES = st.tuples(st.integers(1, 600), st.integers(0, 600))


def test_the_named_slices_are_the_halves_and_all_of_it():
    assert slice_range("labelled", 3, 5) == range(3)
    assert slice_range("held_out", 3, 5) == range(3, 8)
    assert slice_range("all", 3, 5) == range(8)


@given(SIZES, st.lists(st.floats(0.001, 0.999), min_size=1, max_size=5, unique=True))
def test_slices_that_follow_each_other_neither_overlap_nor_leave_a_problem_out(sizes, cuts):
    bounds = [0.0, *sorted(cuts), 1.0]
    names = [f"{a!r}:{b!r}" for a, b in itertools.pairwise(bounds)]
    positions = [position for name in names for position in slice_range(name, *sizes)]
    assert positions == list(range(sum(sizes)))


@given(SIZES, st.data())
def test_a_slice_named_by_its_positions_has_them(sizes, data):
    start = data.draw(st.integers(0, sum(sizes) - 1))
    stop = data.draw(st.integers(start + 1, sum(sizes)))
    assert slice_range(check_slice(slice_name(start, stop, *sizes)), *sizes) == range(start, stop)


def test_equal_slices_get_the_same_short_name():
    assert [slice_name(*span, 4, 4) for span in ((0, 8), (0, 4), (4, 8), (0, 2))] == [
        "all",
        "labelled",
        "held_out",
        "0:0.25",
    ]


@pytest.mark.parametrize("wrong", ["0:1.5", "-0.1:1", "0.5:0.5", "1:0", "half", "0:a", "0:0.5:1", "", "nan:1", "0:nan"])
def test_a_wrong_slice_is_refused_with_what_is_allowed(wrong):
    with pytest.raises(ValueError, match=r"labelled, held_out, all, or START:STOP.*0 ≤ START < STOP ≤ 1"):
        check_slice(wrong)
