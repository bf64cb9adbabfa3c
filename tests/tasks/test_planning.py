"""The plan for people: every stage, what it costs, and why it must run."""

from pathlib import Path

from s2d_core.config.compose import load_config
from s2d_core.config.schema import Config
from s2d_core.plan import Plan, plan
from s2d_core.run_stage import run_stage
from s2d_core.spec import StageResult
from s2d_core.store import Store
from tasks.planning import describe, estimated_tokens, labels, plan_rows, reasons


def named(planned: Plan, why: dict[str, str]) -> dict[str, str]:
    return {planned.specs[fingerprint].name: reason for fingerprint, reason in why.items()}


def pretend_finished(planned: Plan, store: Store, name: str) -> Path:
    """Commit an empty result for the stage of that name; its directory."""
    spec = next(spec for spec in planned.specs.values() if spec.name == name)
    directory = store.begin(spec)
    (directory / "model").mkdir()
    (directory / "model" / "weights").write_text("12345")
    store.commit(spec, StageResult(fingerprint=spec.fingerprint, name=name, kind=spec.kind))
    return directory


def test_a_finished_stage_is_cached_and_its_child_must_run(smoke: Config) -> None:
    planned, store = plan(smoke, ["direct_grpo"], [0]), Store(smoke.store)
    pretend_finished(planned, store, "data")
    why = named(planned, reasons(planned, store))
    assert why["data"] == "cached"
    assert why["pretrain_student"] == "never run"
    assert why["student_rl"] == "after pretrain_student"


def test_a_truncated_file_is_the_reason_to_run_again(smoke: Config) -> None:
    planned, store = plan(smoke, ["direct_grpo"], [0]), Store(smoke.store)
    directory = pretend_finished(planned, store, "pretrain_student")
    (directory / "model" / "weights").write_text("1")
    assert "damaged" in named(planned, reasons(planned, store))["pretrain_student"]


def test_an_unfinished_stage_says_how_far_it_got(smoke: Config) -> None:
    planned, store = plan(smoke, ["direct_grpo"], [0]), Store(smoke.store)
    spec = next(spec for spec in planned.specs.values() if spec.name == "pretrain_student")
    (store.begin(spec) / "metrics.jsonl").write_text('{"step": 1, "steps": 40}\n{"step": 2, "steps": 40}\n')
    assert named(planned, reasons(planned, store))["pretrain_student"] == "unfinished: 2 of 40 steps are logged"


def test_a_changed_setting_is_named_with_both_values(smoke: Config, tmp_path: Path) -> None:
    store = Store(smoke.store)
    pretend_finished(plan(smoke, ["direct_grpo"], [0]), store, "pretrain_student")
    changed = load_config("smoke", [f"store={smoke.store}", "stages.pretrain_student.optimiser.lr=0.5"])
    planned = plan(changed, ["direct_grpo"], [0])
    assert smoke.stages.pretrain_student is not None
    before = smoke.stages.pretrain_student.optimiser.lr
    assert named(planned, reasons(planned, store))["pretrain_student"] == f"changed: optimiser.lr {before} → 0.5"


def test_labels_are_those_a_stage_really_looks_at(smoke: Config, tmp_path: Path) -> None:
    planned = plan(smoke, None, [0])
    by_name = {spec.name: labels(spec, smoke) for spec in planned.specs.values()}
    assert by_name["warmup"] == by_name["opd"] == by_name["evaluate"] == 0
    few = smoke.model_copy(update={"stages": smoke.stages.model_copy(update={"student_rl": _steps(smoke, 1)})})
    spec = next(spec for spec in plan(few, ["direct_grpo"], [0]).specs.values() if spec.name == "student_rl")
    assert labels(spec, few) == few.stages.student_rl.prompts_per_step
    run_stage(next(spec for spec in planned.specs.values() if spec.name == "data"))
    for name in ("pretrain_student", "student_rl"):
        result = run_stage(next(spec for spec in planned.specs.values() if spec.name == name))
    assert result.labels == by_name["student_rl"]
    assert sum(result.tokens.values()) <= 3 * estimated_tokens(
        next(spec for spec in planned.specs.values() if spec.name == "student_rl")
    )


def test_the_text_has_a_line_for_each_stage_and_each_arm(smoke: Config) -> None:
    planned, store = plan(smoke, None, [0]), Store(smoke.store)
    text = describe(planned, smoke, reasons(planned, store))
    assert f"{len(planned.specs)} distinct stages, 0 cached, {len(planned.specs)} to run" in text
    assert all(fingerprint in text for fingerprint in planned.specs)
    assert all(f"arm {arm}:" in text for arm in planned.arms)


def test_the_table_has_a_row_for_each_stage_that_says_why_it_runs(smoke: Config) -> None:
    planned, store = plan(smoke, None, [0]), Store(smoke.store)
    pretend_finished(planned, store, "data")
    rows = {row["stage"]: row for row in plan_rows(planned, smoke, reasons(planned, store))}
    assert len(rows) == len(planned.specs)
    assert rows["data, seed 0, full, direct_grpo"]["why it runs"] == "cached"
    assert rows["student_rl, seed 0, direct_grpo"]["labels"] == 32


def _steps(config: Config, steps: int):  # type: ignore[no-untyped-def]
    return config.stages.student_rl.model_copy(update={"steps": steps})
