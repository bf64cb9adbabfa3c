"""Fingerprints of finished results: a new setting must not change them, or everything would be trained anew."""

import pytest

from s2d_core.config.compose import load_config
from s2d_core.plan import plan

STAGES = {
    "full": {
        "data": "a3452a9c4e50cf38",
        "pretrain_teacher": "28df313ba4c3ecda",
        "teacher_rl": "84ceb6b03b28fd6b",
        "pretrain_student": "a85015ada5dac5a4",
        "warmup": "84bcb83e95b45441",
        "opd": "31970aa7978771cf",
    },
    "direct_grpo": {"student_rl": "07d896b90b4bb105"},
    "mixed_density": {"mixed": "7392702846e4faaa"},
    "trek": {"warmup": "e9b9c5fb8b639532", "student_rl": "1f5b7f0a1f400f44"},
    "sft_teacher": {"teacher_sft": "992bd85c76d2f589"},
}
FULL_EVALUATIONS = {
    "cold": "e56c0e26da6d5f2c",
    "warm": "9d81ba236d07f6ce",
    "teacher": "4c956354dc528766",
    "raw_teacher": "22b17ef45dca2745",
    "final": "554df284ed74cbe8",
}


@pytest.fixture(scope="module")
def planned():
    return plan(load_config("small_world"), list(STAGES), [0])


@pytest.mark.parametrize("arm", STAGES)
def test_the_small_world_s_stages_keep_their_fingerprints(planned, arm):
    found = {planned.specs[f].name: f for f in planned.arms[arm][0].stages}
    assert {name: found[name] for name in STAGES[arm]} == STAGES[arm]


def test_its_evaluations_keep_theirs(planned):
    assert planned.arms["full"][0].evaluations == FULL_EVALUATIONS
