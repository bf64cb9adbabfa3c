"""Fingerprints of finished results: a new setting must not change them, or everything would be trained anew."""

import pytest

from s2d_core.config.compose import load_config
from s2d_core.plan import plan

STAGES = {
    "full": {
        "data": "a3452a9c4e50cf38",
        "pretrain_teacher": "28df313ba4c3ecda",
        "teacher_rl": "b6a20f9695376e99",
        "pretrain_student": "a85015ada5dac5a4",
        "warmup": "6f3ec54e77c85015",
        "opd": "5b12b1c286fb8696",
    },
    "direct_grpo": {"student_rl": "df0e9ad245c3dbe9"},
    "mixed_density": {"mixed": "734ff16b835a85dc"},
    "trek": {"warmup": "4619f34df24cf478", "student_rl": "ebef67284d0979fb"},
    "sft_teacher": {"teacher_sft": "3f310c66011075f0"},
}
FULL_EVALUATIONS = {
    "cold": "b75ec0af25dc5dea",
    "warm": "7657948c12f4e0f7",
    "teacher": "9cc497d90dd22a9a",
    "raw_teacher": "22b17ef45dca2745",
    "final": "5b76e881809b3dca",
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
