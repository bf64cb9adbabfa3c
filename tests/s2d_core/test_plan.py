"""The union DAG: what is shared, what is separate, what changes a fingerprint."""

import pytest

from s2d_core.config.compose import load_config
from s2d_core.errors import ConfigError
from s2d_core.plan import plan, plan_evaluations


def names(result, arm, seed=0):
    return [result.specs[f].name for f in result.arms[arm][seed].stages]


def test_parents_come_before_children():
    config = load_config("small_world")
    result = plan(config, list(config.arms), [0, 1])
    seen = set()
    for fingerprint, spec in result.specs.items():
        assert set(spec.inputs.values()) <= seen
        seen.add(fingerprint)


def test_the_full_arm_is_the_stage_table_in_order():
    result = plan(load_config("small_world"), ["full"], [0])
    assert names(result, "full") == ["data", "pretrain_teacher", "teacher_rl", "pretrain_student", "warmup", "opd"]


def test_stages_that_two_arms_share_are_planned_once():
    config = load_config("small_world", ["arms.warmup_only.stages=[{stage: teacher_rl}, {stage: warmup}]"])
    result = plan(config, ["full", "warmup_only"], [0])
    full, short = result.arms["full"][0], result.arms["warmup_only"][0]
    assert short.stages == full.stages[:-1]
    assert sum(spec.name == "teacher_rl" for spec in result.specs.values()) == 1
    assert full.evaluations["warm"] == short.evaluations["final"]


def test_the_direct_arm_needs_no_teacher():
    result = plan(load_config("small_world"), ["direct_grpo"], [0])
    assert names(result, "direct_grpo") == ["data", "pretrain_student", "student_rl"]
    assert set(result.arms["direct_grpo"][0].evaluations) == {"final"}


def test_a_changed_setting_changes_its_stage_and_what_follows_but_nothing_before():
    before = plan(load_config("small_world"), ["full"], [0]).arms["full"][0].stages
    after = plan(load_config("small_world", ["stages.warmup.steps=31"]), ["full"], [0]).arms["full"][0].stages
    assert before[:4] == after[:4]
    assert all(a != b for a, b in zip(before[4:], after[4:], strict=True))


def test_how_a_stage_is_executed_does_not_change_its_fingerprint_but_engine_and_dtype_do():
    stages = plan(load_config("small_world"), ["full"], [0]).arms["full"][0].stages

    def replanned(*overrides):
        return plan(load_config("small_world", overrides), ["full"], [0]).arms["full"][0].stages

    assert replanned("training.workers=2", "store=elsewhere", "launch.mode=inproc", "verifier.timeout_s=9") == stages
    assert replanned("rollouts.engine=vllm")[2] != stages[2]
    assert replanned("training.dtype=bfloat16")[1] != stages[1]


def test_a_stage_s_own_resources_reach_only_its_execution():
    own = ["resources.teacher_rl.training={workers: 8, gpus_per_worker: 1}", "resources.opd.rollouts.workers=2"]
    plain, changed = (plan(load_config("small_world", overrides), ["full"], [0]) for overrides in ([], own))
    assert list(plain.specs) == list(changed.specs)
    by_name = {spec.name: spec.execution for spec in changed.specs.values()}
    assert by_name["teacher_rl"]["training"]["workers"] == 8
    assert by_name["teacher_rl"]["training"]["gpus_per_worker"] == 1
    assert by_name["opd"]["rollouts"]["workers"] == 2
    assert by_name["warmup"] == {spec.name: spec for spec in plain.specs.values()}["warmup"].execution


def test_stages_that_only_read_and_write_files_take_no_gpu():
    result = plan(load_config("small_world", ["training={workers: 2, gpus_per_worker: 1}"]), ["direct_grpo"], [0])
    by_name = {spec.name: spec.execution["training"] for spec in result.specs.values()}
    assert (by_name["data"]["workers"], by_name["data"]["gpus_per_worker"]) == (1, 0)
    assert (by_name["evaluate"]["workers"], by_name["evaluate"]["gpus_per_worker"]) == (2, 1)


def test_seeds_train_apart_and_cycle_over_the_pretrained_pairs():
    result = plan(load_config("small_world"), ["full"], [0, 1, 2, 3])
    of_seed = [result.arms["full"][seed].stages for seed in range(4)]
    assert len({stages[2] for stages in of_seed}) == 4
    assert len({stages[1] for stages in of_seed}) == 3
    assert of_seed[0][1] == of_seed[3][1]


def test_content_of_external_inputs_enters_the_fingerprints():
    config = load_config("small_world")
    first, second = (plan(config, ["full"], [0], {"data": digest}).arms["full"][0] for digest in ("a", "b"))
    assert first.stages[0] != second.stages[0]


@pytest.mark.parametrize(
    ("arms", "seeds", "named"),
    [
        (["ful"], [0], "ful"),
        (["full", "full"], [0], "once"),
        (None, [1, 1], "seeds"),
        (None, [], "seeds"),
        ([], [0], "arms"),
    ],
)
def test_unknown_or_repeated_arms_and_seeds_are_refused(arms, seeds, named):
    with pytest.raises(ConfigError, match=named):
        plan(load_config("small_world"), arms, seeds)


def test_the_arm_s_own_settings_reach_only_its_stage():
    config = load_config(
        "small_world", ["arms.longer={stages: [{stage: teacher_rl}, {stage: warmup}, {stage: opd, set: {steps: 99}}]}"]
    )
    result = plan(config, ["full", "longer"], [0])
    assert result.specs[result.arms["longer"][0].model].settings["steps"] == 99
    assert result.specs[result.arms["full"][0].model].settings["steps"] == config.stages.opd.steps


def test_an_arm_that_ends_with_the_teacher_deploys_and_measures_the_teacher():
    config = load_config("small_world", ["arms.teacher={stages: [{stage: teacher_rl}]}"])
    result = plan(config, ["teacher"], [0])
    arm = result.arms["teacher"][0]
    assert names(result, "teacher") == ["data", "pretrain_teacher", "teacher_rl"]
    assert result.specs[arm.evaluations["final"]].inputs["policy"] == arm.model == arm.stages[-1]


def test_checkpoints_are_only_evaluated():
    result = plan_evaluations(load_config("small_world"), {"a": ("/a", "1"), "b": ("/b", "2")})
    assert [spec.kind for spec in result.specs.values()] == ["data", "base", "evaluate", "base", "evaluate"]
    assert result.arms["a"][0].model != result.arms["b"][0].model


def inputs(result, arm, name):
    """Role → name of the stage that fills it, for the arm's stage ``name``."""
    stages = result.arms[arm][0].stages
    spec = next(result.specs[f] for f in stages if result.specs[f].name == name)
    return {role: result.specs[parent].name for role, parent in spec.inputs.items()}


def test_a_recipe_s_default_arms_run_when_none_are_named():
    assert list(plan(load_config("small_world"), None, [0]).arms) == ["full", "direct_grpo"]


def test_every_arm_of_the_small_world_can_be_planned_and_shares_what_is_the_same():
    config = load_config("small_world")
    result = plan(config, list(config.arms), range(5))
    apart = sum(len(plan(config, [arm], [seed]).specs) for arm in config.arms for seed in range(5))
    assert len(result.specs) < apart / 2
    rows = [(s.name, s.seed, s.settings["steps"]) for s in result.specs.values() if s.name == "teacher_rl"]
    assert sum(seed == 0 and steps == config.stages.teacher_rl.steps for _, seed, steps in rows) == 2  # and same_size


def test_a_same_size_teacher_starts_from_the_base_student():
    result = plan(load_config("small_world"), ["same_size_teacher"], [0])
    assert inputs(result, "same_size_teacher", "teacher_rl")["policy"] == "pretrain_student"
    assert inputs(result, "same_size_teacher", "warmup") == {
        "data": "data",
        "policy": "pretrain_student",
        "teacher": "teacher_rl",
    }


def test_a_teacher_trained_by_sft_learns_from_itself():
    result = plan(load_config("small_world"), ["sft_teacher"], [0])
    assert inputs(result, "sft_teacher", "teacher_sft") == {
        "data": "data",
        "policy": "pretrain_teacher",
        "teacher": "pretrain_teacher",
    }
    assert inputs(result, "sft_teacher", "warmup")["teacher"] == "teacher_sft"


def test_the_delta_target_reads_the_teacher_before_and_after_its_training():
    result = plan(load_config("small_world"), ["delta_teacher"], [0])
    assert inputs(result, "delta_teacher", "opd") == {
        "data": "data",
        "policy": "pretrain_student",
        "teacher": "teacher_rl",
        "raw_teacher": "pretrain_teacher",
    }


def test_half_split_and_replay_differ_in_the_labels_of_stage_3_alone():
    result = plan(load_config("small_world"), ["half_split", "replay_control"], [0])
    split, replay = (result.arms[arm][0].stages for arm in ("half_split", "replay_control"))
    assert split[:-1] == replay[:-1]
    ours, control = (result.specs[stages[-1]].settings for stages in (split, replay))
    assert ours.pop("problems") == "held_out" and control.pop("problems") == "labelled"
    assert ours["optimiser"].pop("lr") > 0 and control["optimiser"].pop("lr") > 0  # each has been tuned
    assert ours == control
