"""Dynamic sampling: which prompts replace groups without variance, how many, and what is charged for them."""

import pytest

from s2d_core.config.compose import load_config
from s2d_core.data.problems import Problem
from s2d_core.errors import ConfigError
from s2d_core.training.prompts import PromptStream
from s2d_core.training.verified import ScoredGroup, refill

FURTHER = [Problem(f"further{index}", "") for index in range(6)]


def group(varied):
    return ScoredGroup([], [], varied)


class Looks:
    """Scores further prompts as told; remembers what it was asked."""

    def __init__(self, *varied):
        self.varied, self.asked = iter(varied), []

    def __call__(self, problems):
        self.asked.append([problem.id for problem in problems])
        return [group(next(self.varied)) for _ in problems]


def test_as_many_prompts_are_looked_at_as_groups_are_missing_until_none_is():
    looks = Looks(False, True, True)
    kept = refill([group(True), group(False), group(False)], looks, FURTHER, wanted=3, rounds=5)
    assert looks.asked == [["further0", "further1"], ["further2"]]
    assert [each.varied for each in kept] == [True] * 3


def test_the_rounds_are_bounded():
    looks = Looks(*[False] * 10)
    assert refill([group(False)] * 2, looks, FURTHER, wanted=2, rounds=2) == []
    assert len(looks.asked) == 2


def test_no_prompt_is_looked_at_twice_and_the_batch_stays_smaller_when_they_run_out():
    looks = Looks(*[False] * 10)
    refill([group(False)] * 4, looks, FURTHER, wanted=4, rounds=9)
    assert [name for asked in looks.asked for name in asked] == [problem.id for problem in FURTHER]


def test_a_full_batch_looks_at_nothing_more():
    looks = Looks()
    assert len(refill([group(True)] * 4, looks, FURTHER, wanted=4, rounds=3)) == 4
    assert looks.asked == []


def test_further_prompts_are_those_that_the_step_has_not_in_an_order_of_its_own():
    stream = PromptStream([Problem(str(index), "") for index in range(10)], 4, seed=0)
    for step in range(5):
        taken, others = {p.id for p in stream.batch(step)}, [p.id for p in stream.others(step)]
        assert sorted([*taken, *others], key=int) == [str(index) for index in range(10)]
        assert [p.id for p in stream.others(step)] == others
    assert stream.others(0) != stream.others(5)


def test_refilling_what_is_not_dropped_is_refused():
    off = "stages.teacher_rl.policy_gradient.drop_zero_variance=false"
    with pytest.raises(ConfigError, match="refill_rounds"):
        load_config("small_world", [off, "stages.teacher_rl.policy_gradient.refill_rounds=1"])
