"""The arms of the allocation study: labels divided, compute matched."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2d_core.allocation import allocation_arms, default_counts
from s2d_core.config.checks import label_count
from s2d_core.config.compose import load_config, with_arms
from s2d_core.errors import ConfigError
from s2d_core.plan import plan
from s2d_core.recipe import STAGES, stage_settings

# What the figures below follow from, whatever the recipe has.
FIXED = [
    "data.splits.labelled=256",
    "data.splits.held_out=256",
    "stages.teacher_rl.steps=80",
    "stages.student_rl.steps=80",
    "stages.warmup.steps=40",
    "stages.opd.steps=80",
]
CONFIG = load_config("small_world", FIXED)
NAMES = ("full", "direct_grpo")


def arms(shares, counts, scale="steps", config=CONFIG, mixed=None):
    points, built = allocation_arms(config, shares, counts, scale, *NAMES, mixed)
    return points, {name: arm.stages for name, arm in built.items()}


def total_steps(stages):
    return sum(stage_settings(CONFIG, entry)["steps"] for entry in stages)


def labels_of(stages, *, upstream):
    mine = [e.problems for e in stages if (e.stage != "student_rl") == upstream]
    return label_count(CONFIG, set(mine))


@given(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.integers(8, 512))
def test_every_arm_takes_the_updates_and_the_sequences_of_the_upstream_arm(share, labels):
    _, ((_, stages),) = (lambda points, built: (points, built.items()))(*arms([share], [labels]))
    assert abs(total_steps(stages) - total_steps(CONFIG.arms["full"].stages)) <= 1
    for entry in stages:
        settings, recipe = stage_settings(CONFIG, entry), stage_settings(CONFIG, entry.model_copy(update={"set": {}}))
        wanted = recipe["prompts_per_step"] * recipe["group_size"]
        assert settings["prompts_per_step"] * settings["group_size"] == pytest.approx(wanted, rel=0.06)


@given(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.integers(8, 512))
def test_the_labels_are_divided_by_the_share_and_none_is_used_twice(share, labels):
    points, built = arms([share], [labels])
    (point,), (stages,) = points, built.values()
    assert labels_of(stages, upstream=True) == point.upstream == round(share * labels)
    assert labels_of(stages, upstream=False) == labels - point.upstream
    assert label_count(CONFIG, {entry.problems for entry in stages}) == labels


def test_all_labels_upstream_is_the_upstream_arm_itself_and_shares_its_stages():
    points, built = allocation_arms(CONFIG, [0.0, 1.0], [512], "steps", *NAMES)
    config = with_arms(CONFIG, built)
    planned = plan(config, ["full", points[1].arm], [0])
    assert planned.arms["full"][0] == planned.arms[points[1].arm][0]


def test_with_epochs_the_updates_grow_with_the_labels():
    _, built = arms([0.0, 0.5, 1.0], [128, 256, 512], scale="epochs")
    assert built["share_1_of_512"][0].set["steps"] == CONFIG.stages.teacher_rl.steps
    assert built["share_1_of_256"][0].set["steps"] == CONFIG.stages.teacher_rl.steps / 2
    assert built["share_0.5_of_512"][-1].set["steps"] == CONFIG.stages.student_rl.steps / 2
    assert built["share_0_of_128"][0].set["steps"] == CONFIG.stages.student_rl.steps / 4


def test_between_the_shares_a_mixed_arm_gives_the_settings():
    arm = "{stages: [{stage: teacher_rl}, {stage: opd}, {stage: student_rl, set: {optimiser.lr: 0.5}}]}"
    config = load_config("small_world", [*FIXED, f"arms.half={arm}"])
    _, built = arms([0.0, 0.5, 1.0], [512], config=config, mixed="half")
    assert [entry.stage for entry in built["share_0.5_of_512"]] == ["teacher_rl", "opd", "student_rl"]
    assert built["share_0.5_of_512"][-1].set["optimiser.lr"] == 0.5
    assert "optimiser.lr" not in built["share_0_of_512"][0].set


def test_default_counts_double_from_64_to_all_there_are():
    assert default_counts(512) == [64, 128, 256, 512]
    assert default_counts(500) == [64, 128, 256, 500]
    assert default_counts(32) == [32]


@pytest.mark.parametrize(
    ("shares", "counts", "mixed", "named"),
    [
        ([0.5, 1.5], [64], None, r"shares = \[1.5\]: must lie between 0"),
        ([-0.1], [64], None, r"shares = \[-0.1\]"),
        ([float("nan")], [64], None, "shares"),
        ([0.5, 0.5], [64], None, "each once"),
        ([], [64], None, "at least one"),
        ([0.5], [513], None, r"label_counts = \[513\]: allowed: 1 to 512"),
        ([0.5], [0], None, "label_counts"),
        ([0.5], [64, 64], None, "each once"),
        ([0.001], [64], None, "of 64 labels that is none or all"),
        ([0.5], [64], "full", "mixed = 'full': must end with"),
        ([0.5], [64], "fulll", "unknown; allowed: full, direct_grpo"),
    ],
)
def test_what_cannot_be_studied_is_refused(shares, counts, mixed, named):
    with pytest.raises(ConfigError, match=named):
        arms(shares, counts, mixed=mixed)


def test_the_teacher_s_part_is_known_by_the_table():
    _, built = arms([0.25], [512])
    steps = [entry.set["steps"] for entry in built["share_0.25_of_512"]]
    trained = [STAGES[entry.stage].trains for entry in built["share_0.25_of_512"]]
    assert list(zip(trained, steps, strict=True)) == [
        ("teacher", 20),
        ("student", 40),
        ("student", 80),
        ("student", 60),
    ]
