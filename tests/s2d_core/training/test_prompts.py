"""The data cursor: which problems a step uses."""

from hypothesis import given
from hypothesis import strategies as st

from s2d_core.data.problems import Problem
from s2d_core.training.prompts import PromptStream

PROBLEMS = [Problem(str(index), str(index)) for index in range(10)]


@given(st.integers(1, 10), st.integers(0, 99))
def test_every_problem_comes_once_an_epoch(per_step, seed):
    stream = PromptStream(PROBLEMS, per_step, seed)
    order = [problem.id for step in range(30) for problem in stream.batch(step)]
    for epoch in range(len(order) // 10):
        assert sorted(order[10 * epoch : 10 * epoch + 10]) == [problem.id for problem in PROBLEMS]


def test_a_step_s_batch_does_not_depend_on_the_steps_before_it():
    fresh, used = PromptStream(PROBLEMS, 4, 0), PromptStream(PROBLEMS, 4, 0)
    for step in range(7):
        used.batch(step)
    assert fresh.batch(7) == used.batch(7)


def test_epochs_and_seeds_differ_in_order():
    stream = PromptStream(PROBLEMS, 10, 0)
    assert stream.batch(0) != stream.batch(1)
    assert stream.batch(0) != PromptStream(PROBLEMS, 10, 1).batch(0)


def test_used_counts_each_problem_once():
    assert len(PromptStream(PROBLEMS, 4, 0).used(2)) == 8
    assert len(PromptStream(PROBLEMS, 4, 0).used(50)) == 10
