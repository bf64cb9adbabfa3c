"""What the plan says that stages need, and what is refused before any weights are fetched."""

import json

import pytest
from test_memory import PUBLISHED

from s2d_core import fairness
from s2d_core.config.compose import load_config
from s2d_core.errors import CheckpointError, ResourceError
from s2d_core.plan import plan
from s2d_core.preflight import preflight
from s2d_core.resources.estimate import check_fits, estimates
from s2d_core.resources.jobs import training_job
from s2d_core.resources.memory import moments
from tasks.planning import describe

QWEN_14B = {**PUBLISHED["Qwen3-8B"][1], "hidden_size": 5120, "intermediate_size": 17_408, "num_hidden_layers": 40}
MODELS = {
    "qwen3_8b_to_1p7b": (PUBLISHED["Qwen3-8B"][1], PUBLISHED["Qwen3-1.7B"][1]),
    "qwen3_14b_to_1p7b": (QWEN_14B | {"num_attention_heads": 40}, PUBLISHED["Qwen3-1.7B"][1]),
    "llama33_70b_to_31_8b": (PUBLISHED["Llama-3.3-70B"][1], PUBLISHED["Llama-3.1-8B"][1]),
}


def recipe(tmp_path, name, *overrides):
    """The recipe with model folders that hold a configuration and nothing else."""
    paths = []
    for role, shape in zip(("teacher", "student"), MODELS[name], strict=True):
        folder = tmp_path / role
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(shape))
        paths.append(f"models.{role}.path={folder}")
    return load_config(name, [*paths, f"store={tmp_path / 'store'}", *overrides])


@pytest.mark.parametrize("name", ["qwen3_8b_to_1p7b", "qwen3_14b_to_1p7b"])
def test_the_paper_s_models_fit_the_paper_s_hardware_and_its_contrasts_are_fair(tmp_path, name):
    config = recipe(tmp_path, name)
    planned = plan(config, list(config.arms), [0])
    check_fits(config, planned)
    fairness.check(config, planned)


def test_h200_mid_fits_and_takes_less_than_an_hour_by_its_own_assumptions():
    config = load_config("h200_mid")
    planned = plan(config, None, [0])
    check_fits(config, planned)
    assert 0 < sum(found.hours for found in estimates(config, planned).values()) < 1


def test_the_plan_says_memory_by_part_tokens_and_hours_of_each_stage(tmp_path):
    config = recipe(tmp_path, "qwen3_8b_to_1p7b")
    planned = plan(config, ["full"], [0])
    lines = describe(planned, config, dict.fromkeys(planned.specs, "never run")).splitlines()
    at = next(number for number, line in enumerate(lines) if "opd" in line)
    assert "≤ 1,929,379,840 tokens" in lines[at]
    for part in ("weights", "gradients", "optimiser", "frozen models", "activations", "logits", "gathered"):
        assert f"{part} " in lines[at + 1]
    assert "16 × H200 of 141 GB. Assumed, not measured" in lines[-1]


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (
            ["hardware.memory_gb=24"],
            "teacher_rl .* a H200 of 24 GB has room for 20.1 GiB .*Give rollouts workers",
        ),
        (
            ["hardware.memory_gb=80", "training.logits_chunk=32768"],
            "opd needs .*: logits .*Lower training.logits_c",
        ),
        (["training.activation_checkpointing=false"], "teacher_rl needs .*Set training.activation_checkpointing=true"),
        (
            ["rollouts.gpu_memory_utilization=0.9"],
            "teacher_rl: vLLM takes rollouts.gpu_memory_utilization = 0.9 of a H200, 118.2 .*between 0.14 and 0.80",
        ),
        (["rollouts.gpu_memory_utilization=0.05"], "teacher_rl: vLLM takes .* 0.05 of .* it needs 18.0 GiB"),
        (["hardware.devices=8"], "training.workers = 16: hardware.devices is 8"),
    ],
)
def test_what_cannot_fit_is_refused_with_the_setting_to_change_before_weights_are_looked_for(
    tmp_path, overrides, named
):
    config = recipe(tmp_path, "qwen3_8b_to_1p7b", *overrides)
    with pytest.raises(ResourceError, match=named):
        preflight(config)


def test_an_engine_on_the_trainer_s_gpu_takes_memory_while_it_samples_and_always_if_it_samples_ahead(tmp_path):
    jobs = []
    for staleness in (0, 1):
        config = recipe(tmp_path, "qwen3_8b_to_1p7b", f"rollouts.staleness={staleness}")
        planned = plan(config, ["full"], [0])
        jobs.append(training_job(config, planned, next(s for s in planned.specs.values() if s.name == "opd")))
    asleep, awake = (moments(job) for job in jobs)
    weights = 2.0 * jobs[0].engine.model.parameters
    assert {name: parts["engine"] for name, parts in awake.items()} == dict.fromkeys(awake, weights)
    assert {name: parts["engine"] for name, parts in asleep.items()} == dict.fromkeys(asleep, 0.0) | {"sample": weights}


def test_a_70b_engine_in_every_worker_is_refused_though_its_contrasts_are_fair(tmp_path):
    config = recipe(tmp_path, "llama33_70b_to_31_8b")
    planned = plan(config, list(config.arms), [0])
    fairness.check(config, planned)
    with pytest.raises(ResourceError, match=r"teacher_rl needs .*engine 131.4 GiB.*Give rollouts workers"):
        check_fits(config, planned)


def test_weights_are_looked_for_once_the_plan_fits(tmp_path):
    with pytest.raises(CheckpointError, match="weights are missing"):
        preflight(recipe(tmp_path, "qwen3_8b_to_1p7b"))


def test_a_model_that_is_neither_here_nor_in_the_cache_is_one_clear_error():
    with pytest.raises(CheckpointError, match=r"'Qwen/Qwen3-8B': neither a folder here nor to be had from the Hub"):
        preflight(load_config("qwen3_8b_to_1p7b"))


def test_a_configuration_of_another_kind_of_model_is_refused(tmp_path):
    config = recipe(tmp_path, "qwen3_8b_to_1p7b")
    (tmp_path / "teacher" / "config.json").write_text('{"model_type": "t5", "vocab_size": 3}')
    with pytest.raises(CheckpointError, match="has no hidden_size, num_hidden_layers"):
        preflight(config)


def test_a_job_is_what_the_stage_s_row_and_settings_say(tmp_path):
    config = recipe(tmp_path, "qwen3_8b_to_1p7b")
    planned = plan(config, ["full", "direct_grpo"], [0])
    jobs = {spec.name: training_job(config, planned, spec) for spec in planned.specs.values() if spec.kind == "train"}
    teacher, student = jobs["teacher_rl"].model, jobs["opd"].model
    assert (jobs["warmup"].model, jobs["student_rl"].model) == (student, student)
    assert jobs["opd"].target == jobs["opd"].frozen == [teacher]
    assert (jobs["warmup"].engine.model, jobs["opd"].engine.model) == (teacher, student)
    assert jobs["teacher_rl"].frozen == [teacher], "the reference of its KL term"
    assert [jobs[name].losses for name in ("teacher_rl", "warmup", "opd")] == [
        ["policy_gradient"],
        ["forward_kl"],
        ["reverse_kl"],
    ]
    assert jobs["opd"].micro.tokens == 2048 + 16_384


def test_a_teacher_whose_top_k_is_stored_takes_no_memory_while_the_student_trains(tmp_path):
    cached = ["stages.warmup.divergence.estimator=top_k", "stages.warmup.cache_top_k=true"]
    config = recipe(tmp_path, "qwen3_8b_to_1p7b", *cached)
    planned = plan(config, ["full"], [0])
    (warmup,) = (spec for spec in planned.specs.values() if spec.name == "warmup")
    job = training_job(config, planned, warmup)
    assert (job.frozen, job.target, job.losses) == ([], [], ["stored_top_k"])
    found = moments(job)
    assert found["sample"]["engine"] > 0
    assert found["store"]["frozen models"] == found["teacher"]["frozen models"] > 0
    for moment in ("loss", "head", "layers", "embedding", "update"):
        assert found[moment]["engine"] == found[moment]["frozen models"] == 0
