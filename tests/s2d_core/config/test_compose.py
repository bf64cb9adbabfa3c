"""Composition and validation of configurations."""

import pytest

from s2d_core.config.compose import load_config, recipe_names, with_arms
from s2d_core.config.stages import ArmConfig
from s2d_core.errors import ConfigError


def test_every_shipped_recipe_is_valid():
    yours = ["models.teacher.path=./t", "models.student.path=./s", "data.files.train=./d.jsonl"]
    for name in recipe_names():
        assert load_config(name, yours if name == "own_models" else []).arms


def test_a_recipe_may_build_on_several_of_which_later_ones_win(tmp_path):
    (tmp_path / "mine.yaml").write_text(f"extends: [own_models, data/gsm8k, {tmp_path / 'sizes.yaml'}]\n")
    (tmp_path / "sizes.yaml").write_text("data: {splits: {test: 99}}")
    config = load_config(str(tmp_path / "mine.yaml"), ["models.teacher.path=./t", "models.student.path=./s"])
    assert config.data.files.source(config.data.files.train).path == "openai/gsm8k"
    assert (config.data.splits.test, config.data.splits.labelled) == (99, 256)


def test_a_recipe_that_needs_your_paths_says_which():
    with pytest.raises(ConfigError, match=r"data\.files\.train, models\.student\.path, models\.teacher\.path"):
        load_config("own_models")


def test_an_override_changes_exactly_the_key_it_names():
    plain, changed = load_config("small_world"), load_config("small_world", ["stages.opd.steps=7"])
    assert changed.stages.opd.steps == 7
    assert changed.model_copy(update={"stages": plain.stages}) == plain


def test_an_override_reaches_into_lists():
    changed = load_config("small_world", ["arms.full.stages.2.set.steps=7", "arms.full.stages.1.problems=labelled"])
    assert [stage.set for stage in changed.arms["full"].stages] == [{}, {}, {"steps": 7}]
    assert changed.arms["full"].stages[1].problems == "labelled"


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("stages.opd.stepz=3", ["stages.opd.stepz = 3", "unknown key", "Did you mean 'steps'"]),
        ("data.splits.labeled=3", ["data.splits.labeled", "Did you mean 'labelled'", "held_out"]),
        ("stages.opd.steps=0", ["stages.opd.steps = 0", "greater than or equal to 1"]),
        ("stages.opd.optimiser.lr=fast", ["stages.opd.optimiser.lr = 'fast'", "valid number"]),
        ("rollouts.engine=sglang", ["rollouts.engine = 'sglang'", "torch", "vllm"]),
        ("label_budget=100", ["looks at 128 labels", "label_budget = 100"]),
        ("label_budget=5000", ["label_budget = 5000", "128 labels there are"]),
        ("arms.mine.stages=[{stage: opd}]", ["arms.mine.stages.0", "without a teacher", "teacher_rl"]),
        ("arms.mine.stages=[{stage: student_rl, set: {optimiser.lrr: 1}}]", ["set.optimiser.lrr", "Did you mean 'lr'"]),
        ("arms.mine.stages=[{stage: sft}]", ["arms.mine.stages.0", "without a teacher"]),
        ("arms.mine.stages=[{stage: mixed}]", ["arms.mine.stages.0", "without a teacher"]),
        ("arms.mine={teacher: raw, stages: [{stage: teacher_rl}]}", ["trains the teacher", "arms.mine.teacher=raw"]),
        ("stages.mixed.sparse_weight=1.0", ["stages.mixed.sparse_weight = 1.0", "less than 1"]),
        ("stages.mixed.policy_gradient.drop_zero_variance=true", ["drop_zero_variance", "set it to false"]),
        ("stages.warmup.cache_top_k=true", ["stages.warmup", "cache_top_k", "full", "set divergence.estimator=top_k"]),
        ("stages.sft=null", ["stages.sft", "missing", "an arm has this stage"]),
        ("stages.opd.target=gamma", ["stages.opd.target = 'gamma'", "teacher", "delta"]),
        ("default_arms=[ful]", ["default_arms = ['ful']", "unknown", "full"]),
        ("arms.mine.stages=[]", ["arms.mine.stages", "at least 1"]),
        ("arms.mine.stages=[{stage: rl}]", ["arms.mine.stages.0.stage = 'rl'", "student_rl"]),
        ("stages.student_rl.prompts_per_step=4000", ["prompts_per_step = 4000", "128 problems"]),
        ("arms.mine.stages=[{stage: student_rl, problems: '0:1.5'}]", ["arms.mine.stages.0.problems", "0:1.5", "≤ 1"]),
        ("arms.mine.stages=[{stage: student_rl, problems: '0:0.05'}]", ["prompts_per_step = 32", "6 problems"]),
        (
            "arms.mine.stages=[{stage: student_rl, problems: half}]",
            ["'half'", "labelled, held_out, all, or START:STOP"],
        ),
        ("models.teacher.path=/somewhere", ["models.teacher", "exactly one of path"]),
        ("stages.pretrain_teacher=null", ["stages.pretrain_teacher", "trained from scratch"]),
        ("arms.full.stages.9.set.steps=3", ["arms.full.stages.9.set.steps=3"]),
        ("arms.full.stages.last.set.steps=3", ["arms.full.stages.last.set.steps=3"]),
        ("no_equals_sign", ["no_equals_sign", "key=value"]),
        ("resources.teacher.training.workers=8", ["resources.teacher", "no such stage", "teacher_rl", "evaluate"]),
        ("resources.opd.training.workers=0", ["resources.opd.training.workers = 0", "greater than or equal to 1"]),
        ("resources.opd.workers=8", ["resources.opd.workers = 8", "training", "rollouts"]),
        ("resources.opd.rollouts.gpus_per_worker=1", ["resources.opd.rollouts", "workers = 0", "raise workers"]),
        ("training={workers: 2, gpus_per_worker: 0.5}", ["gpus_per_worker = 0.5", "workers = 2", "whole GPUs"]),
        ("training.gpus_per_worker=1.5", ["gpus_per_worker = 1.5", "a share of one GPU, or a whole number"]),
        ("rollouts.weight_transfer=nvlink", ["rollouts.weight_transfer = 'nvlink'", "host", "nccl", "ipc"]),
        ("rollouts.weight_transfer=nccl", ["weight_transfer = nccl", "engine=vllm and workers", "host"]),
        (
            "rollouts={engine: vllm, workers: 2, gpus_per_worker: 0.5, weight_transfer: nccl}",
            ["weight_transfer = nccl with gpus_per_worker = 0.5", "a GPU of its own"],
        ),
        (
            "rollouts={engine: vllm, workers: 2, gpus_per_worker: 1, weight_transfer: nccl}",
            ["training.gpus_per_worker = 0 with rollouts.weight_transfer = 'nccl'", "rollouts.weight_transfer=host"],
        ),
        (
            "rollouts={engine: vllm, workers: 1, gpus_per_worker: 1, weight_transfer: ipc}",
            ["weight_transfer = ipc with workers = 1 and gpus_per_worker = 1", "its share, or use nccl"],
        ),
        ("training.resources_per_worker={GPU: 1}", ["training.resources_per_worker", "gpus_per_worker instead"]),
    ],
)
def test_a_wrong_setting_gets_one_error_that_names_key_value_and_what_is_allowed(override, named):
    with pytest.raises(ConfigError) as caught:
        load_config("small_world", [override])
    for part in named:
        assert part in str(caught.value)


def test_weights_go_from_gpu_to_gpu_where_trainer_and_engines_have_some_and_within_one_that_they_share():
    engines = "rollouts={engine: vllm, workers: 2, gpus_per_worker: 1, weight_transfer: nccl}"
    assert load_config("small_world", [engines, "training={workers: 2, gpus_per_worker: 1}"])
    with pytest.raises(ConfigError, match=r"resources\.opd\.training\.gpus_per_worker = 0 with .*nccl"):
        load_config("small_world", [engines, "training.gpus_per_worker=1", "resources.opd.training.gpus_per_worker=0"])

    engine = "rollouts={engine: vllm, workers: 1, gpus_per_worker: 0.4, weight_transfer: ipc}"
    assert load_config("small_world", [engine, "training.gpus_per_worker=0.6"])
    for training in ("{gpus_per_worker: 1}", "{workers: 2, gpus_per_worker: 1}"):
        with pytest.raises(ConfigError, match=r"training\.workers = \d and gpus_per_worker = 1 beside 0\.4 .*sum to 1"):
            load_config("small_world", [engine, f"training={training}"])


def test_an_unknown_recipe_is_refused_with_the_list_of_known_ones():
    with pytest.raises(ConfigError, match="small_world"):
        load_config("smal_world")


def test_a_recipe_file_extends_a_shipped_one(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("extends: small_world\nname: mine\nstages: {opd: {steps: 3}}\n")
    config = load_config(str(recipe))
    assert (config.name, config.stages.opd.steps) == ("mine", 3)
    assert config.stages.warmup == load_config("small_world").stages.warmup


def test_recipes_that_extend_each_other_in_a_circle_are_refused(tmp_path):
    recipe = tmp_path / "loop.yaml"
    recipe.write_text(f"extends: {recipe}\n")
    with pytest.raises(ConfigError, match="circle"):
        load_config(str(recipe))


def test_broken_yaml_is_refused_naming_the_file(tmp_path):
    recipe = tmp_path / "broken.yaml"
    recipe.write_text("name: [unclosed\n")
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load_config(str(recipe))


def test_a_raw_teacher_needs_no_teacher_rl():
    config = load_config("small_world", ["arms.raw={teacher: raw, stages: [{stage: warmup}, {stage: opd}]}"])
    assert config.arms["raw"].teacher == "raw"


def test_slices_by_fractions_count_towards_the_label_budget_once_where_they_overlap():
    stages = "[{stage: student_rl, problems: '0:0.5'}, {stage: student_rl, problems: '0.25:0.75'}]"
    pool = ["data.splits.labelled=256", "data.splits.held_out=256"]
    load_config("small_world", [*pool, "label_budget=512", f"arms={{mine: {{stages: {stages}}}}}"])
    with pytest.raises(ConfigError, match=r"arms\.mine: looks at 384 labels, over label_budget = 383"):
        load_config("small_world", [*pool, "label_budget=383", f"arms.mine.stages={stages}"])


def test_a_split_without_problems_cannot_be_evaluated_on():
    with pytest.raises(ConfigError, match=r"evaluation\.split = 'validation': data\.splits\.validation is 0"):
        load_config("small_world", ["evaluation.split=validation", "data.splits.validation=0"])


def test_a_further_arm_is_held_to_the_same_rules_as_a_recipe_s():
    config = load_config("small_world")
    dense = ArmConfig.model_validate({"stages": [{"stage": "opd"}]})
    assert with_arms(config, {"mine": dense.model_copy(update={"teacher": "raw"})}).arms.keys() == {
        *config.arms,
        "mine",
    }
    with pytest.raises(ConfigError, match=r"arms\.mine\.stages\.0.*without a teacher"):
        with_arms(config, {"mine": dense})
    with pytest.raises(ConfigError, match=r"arms = \['full'\].*choose others"):
        with_arms(config, {"full": config.arms["full"]})


def test_the_site_says_where_a_run_goes_and_an_override_has_the_last_word(tmp_path, monkeypatch):
    site = tmp_path / "site.yaml"
    site.write_text(
        "store: /site\nlaunch: {mode: ray, address: '127.0.0.1:1'}\ntracking: {uri: 'http://127.0.0.1:2'}\n"
    )
    monkeypatch.setenv("S2D_SITE", str(site))
    config = load_config("smoke", ["store=/mine"])
    assert (config.store, config.launch.address, config.tracking.uri) == (
        "/mine",
        "127.0.0.1:1",
        "http://127.0.0.1:2",
    )


@pytest.mark.parametrize(
    ("content", "named"), [("stages: {opd: {steps: 3}}", "stages.*allowed: store"), ("[1]", "mapping")]
)
def test_a_site_cannot_change_what_is_trained(tmp_path, monkeypatch, content, named):
    site = tmp_path / "site.yaml"
    site.write_text(content)
    monkeypatch.setenv("S2D_SITE", str(site))
    with pytest.raises(ConfigError, match=rf"S2D_SITE.*{named}"):
        load_config("smoke")


def test_a_site_file_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("S2D_SITE", "/nowhere/site.yaml")
    with pytest.raises(ConfigError, match=r"/nowhere/site\.yaml.*unset"):
        load_config("smoke")
