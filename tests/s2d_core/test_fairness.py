"""Fairness: what two arms differ in is named, or refused before anything is trained."""

import pytest

from s2d_core.config.compose import load_config
from s2d_core.config.schema import Config, ContrastConfig
from s2d_core.errors import FairnessError
from s2d_core.fairness import check, differences, facts
from s2d_core.plan import Plan, plan

HALF = (
    "arms.half_split={stages: [{stage: teacher_rl, problems: labelled}, {stage: warmup, problems: labelled}, "
    "{stage: opd, problems: labelled}, {stage: student_rl, problems: held_out}]}"
)
REPLAY = HALF.replace("half_split", "replay").replace("held_out", "labelled")

# What the figures below follow from, whatever the recipe has.
FIXED = [
    "data.splits.labelled=256",
    "data.splits.held_out=256",
    "stages.teacher_rl.steps=80",
    "stages.student_rl.steps=80",
    "stages.opd.steps=80",
]


def planned(*overrides: str, **contrast: object) -> tuple[Config, Plan]:
    """A small-world plan of the default arms; or of those of ``contrast``, which takes the place of the recipe's."""
    config = load_config("small_world", [*FIXED, *overrides])
    if not contrast:
        return config, plan(config, None, [0])
    only = ContrastConfig.model_validate({"name": "c", **contrast})
    config = config.model_copy(update={"contrasts": (only,), "learning_rate_trials": None})
    return config, plan(config, only.arms, [0])


@pytest.mark.parametrize("recipe", ["small_world", "smoke"])
def test_every_shipped_contrast_is_fair(recipe: str) -> None:
    config = load_config(recipe)
    found = check(config, plan(config, list(config.arms), [0]))
    assert found.keys() == {contrast.name for contrast in config.contrasts}
    assert all(each.named for differing in found.values() for each in differing)


def test_a_contrast_says_what_its_arms_differ_in() -> None:
    found = check(*planned())
    quantities = {each.quantity for each in found["full > direct_grpo"]}
    assert quantities == {"stages", "rollouts", "student_updates", "teacher_updates"}
    assert all(each.named for each in found["full > direct_grpo"])


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("arms.direct_grpo.stages=[{stage: student_rl, problems: labelled}]", "labels: 512 against 256"),
        ("stages.student_rl.steps=8", "labels: 512 against 256"),
        ("stages.student_rl.steps=200", "steps of GRPO: 80 against 200"),
        ("stages.student_rl.group_size=16", "group_size: 8 against 16"),
        ("stages.warmup.prompts_per_step=64", "sequences_per_update: [256, 512] against 256"),
        ("stages.student_rl.sampling.max_tokens=24", "sampling.max_tokens: 22 against 24"),
        ("stages.student_rl.sampling.temperature=0.8", "sampling.temperature: 1.0 against 0.8"),
        ("stages.student_rl.policy_gradient.scale_by_std=false", "policy_gradient.scale_by_std of GRPO"),
        ("stages.student_rl.optimiser.weight_decay=0.1", "optimiser.weight_decay: 0.0 against 0.1"),
        ("learning_rate_trials.direct_grpo=7", "learning_rate_trials: 15 against 7"),
        ("learning_rate_trials={full: 3, direct_grpo: 5}", "learning_rate_trials: 3 against 5"),
    ],
)
def test_a_fault_seeded_into_one_arm_is_refused_by_name(fault: str, named: str) -> None:
    with pytest.raises(FairnessError) as refused:
        check(*planned(fault))
    assert named in str(refused.value)
    assert "full > direct_grpo" in str(refused.value)


def test_learning_rates_differ_freely_when_as_many_were_tried() -> None:
    found = check(*planned("stages.student_rl.optimiser.lr=0.01", "learning_rate_trials={full: 5, direct_grpo: 5}"))
    assert all(each.named for each in found["full > direct_grpo"])


def test_a_contrast_that_is_not_strict_prints_what_it_does_not_name() -> None:
    config, found = planned(
        "stages.student_rl.steps=8",
        arms=["full", "direct_grpo"],
        differs=["stages", "rollouts", "student_updates", "teacher_updates"],
        strict=False,
    )
    (unnamed,) = [each for each in check(config, found)["c"] if each.quantity == "labels"]
    assert not unnamed.named
    assert str(unnamed) == "labels: 512 against 256"


def test_a_contrast_is_only_asked_of_arms_in_the_run() -> None:
    config = load_config("small_world", ["stages.student_rl.steps=2"])
    assert check(config, plan(config, ["full"], [0])) == {}


def test_half_split_and_replay_differ_in_labels_and_whose_problems_stage_three_reads() -> None:
    config, found = planned(HALF, REPLAY, arms=["half_split", "replay"], differs=["labels", "prompts", "problems"])
    assert {str(each) for each in check(config, found)["c"]} == {
        "labels: 512 against 256",
        "prompts: 512 against 256",
        "problems of GRPO: ['held_out', 'labelled'] against labelled",
    }


def test_a_section_of_settings_covers_its_keys_and_a_dotted_name_only_its_own() -> None:
    longer = "arms.jsd={stages: [{stage: teacher_rl}, {stage: warmup}, {stage: opd, set: {divergence.kind: jsd}}]}"
    for differs in (["divergence"], ["divergence.kind"]):
        check(*planned(longer, arms=["full", "jsd"], differs=differs))
    with pytest.raises(FairnessError, match=r"divergence\.kind of opd: reverse_kl against jsd"):
        check(*planned(longer, arms=["full", "jsd"], differs=["divergence.beta"]))


def test_rows_are_compared_by_name_when_both_arms_have_them() -> None:
    """Swapped settings have the same distinct values, and are still a difference."""
    swapped = (
        "arms.swapped={stages: [{stage: teacher_rl}, {stage: warmup, set: {divergence.kind: reverse_kl}}, "
        "{stage: opd, set: {divergence.kind: forward_kl}}]}"
    )
    config, found = planned(swapped, arms=["full", "swapped"])
    assert {each.where for each in differences(config, found, config.contrasts[0])} == {"warmup", "opd"}


def test_a_raw_teacher_is_a_difference_of_its_own() -> None:
    raw = "arms.raw={teacher: raw, stages: [{stage: warmup}, {stage: opd}]}"
    config, found = planned(raw, arms=["full", "raw"], strict=False)
    assert {"teacher", "stages", "labels"} <= {each.quantity for each in check(config, found)["c"]}


def test_a_name_that_is_no_quantity_is_refused_with_those_there_are() -> None:
    with pytest.raises(FairnessError, match=r"differs names 'rolouts'.*rollouts"):
        check(*planned(arms=["full", "direct_grpo"], differs=["rolouts"], strict=False))


def test_stored_rollouts_are_counted_once() -> None:
    config, found = planned()
    grpo, stored, opd = 80 * 32 * 8, 512 * 8, 80 * 32 * 8
    assert facts(config, found, "full")["rollouts", ""] == grpo + stored + opd


def test_minibatches_are_updates() -> None:
    config, found = planned("stages.student_rl.policy_gradient.minibatches=4")
    of_direct = facts(config, found, "direct_grpo")
    assert of_direct["student_updates", ""] == 4 * 80
    assert of_direct["sequences_per_update", ""] == 64
