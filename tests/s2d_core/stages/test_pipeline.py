"""Every stage of the smoke recipe in this process: what it leaves, what it costs, and that nothing runs twice."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from s2d_core.config.compose import load_config
from s2d_core.errors import LabelBudgetError
from s2d_core.plan import plan
from s2d_core.report.data import headline, report_data
from s2d_core.report.page import write_report
from s2d_core.report.results import Results
from s2d_core.run_stage import run_stage
from s2d_core.store import Store

OVERRIDES = ["launch.mode=inproc", "data.splits.test=12", "evaluation.k=2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(configuration, plan, store, results by fingerprint) of a finished smoke run."""
    store = tmp_path_factory.mktemp("store")
    config = load_config("smoke", [*OVERRIDES, f"store={store}"])
    planned = plan(config, None, [0])
    return config, planned, Store(store), {f: run_stage(spec) for f, spec in planned.specs.items()}


def named(run, name):
    _, planned, store, results = run
    fingerprint = next(f for f, spec in planned.specs.items() if spec.name == name)
    return store.dir(planned.specs[fingerprint]), results[fingerprint]


def test_every_stage_is_finished_and_found_again(run):
    _, planned, store, results = run
    assert all(store.result(spec).metrics == results[f].metrics for f, spec in planned.specs.items())


def test_a_finished_stage_is_not_run_again(run):
    _, planned, store, _ = run
    spec = next(spec for spec in planned.specs.values() if spec.name == "opd")
    before = (store.dir(spec) / "metrics.jsonl").stat().st_mtime_ns
    run_stage(spec)
    assert (store.dir(spec) / "metrics.jsonl").stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["pretrain_teacher", "pretrain_student", "teacher_rl", "warmup", "opd", "student_rl"])
def test_every_trained_stage_leaves_a_model_any_hugging_face_tool_loads(run, name):
    directory, result = named(run, name)
    folder = directory / result.model
    assert AutoModelForCausalLM.from_pretrained(folder).config.model_type == "qwen3"
    assert AutoTokenizer.from_pretrained(folder)("1+2=").input_ids[0] == 1
    assert not list(folder.glob("*.bin"))


def test_only_sparse_stages_spend_labels_and_the_ledger_says_which(run):
    for name in ("teacher_rl", "student_rl"):
        directory, result = named(run, name)
        entries = [json.loads(line) for line in (directory / "ledger.jsonl").read_text().splitlines()]
        assert result.labels == len({p for entry in entries for p in entry["problems"]}) == 32
        assert result.label_looks == sum(len(entry["problems"]) for entry in entries) == 32
    for name in ("warmup", "opd"):
        directory, result = named(run, name)
        assert result.labels == result.label_looks == 0
        assert not (directory / "ledger.jsonl").exists()
        assert result.prompts == 32


def test_every_step_reports_what_a_person_watches(run):
    wanted = {
        "teacher_rl": {"reward", "entropy", "clip_fraction", "sampler_gap", "seconds_sample", "seconds_score"},
        "warmup": {"kl", "student_entropy", "teacher_entropy", "overlap"},
        "opd": {"kl", "sampled_per_second", "seconds_sample"},
    }
    always = {
        "step",
        "lr",
        "grad_norm",
        "tokens_per_second",
        "seconds_train",
        "seconds_sync",
        "truncated",
        "completion_length",
    }
    for name, special in wanted.items():
        directory, _ = named(run, name)
        lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 3, 4]
        # A batch without any variance in its rewards trains nothing, so loss metrics may be missing from such a step.
        assert always <= lines[0].keys()
        assert special - {"entropy", "clip_fraction", "sampler_gap"} <= lines[0].keys()


def test_the_bridge_brings_the_student_nearer_to_the_teacher(run):
    _, planned, _, results = run
    arm = planned.arms["full"][0]
    cold, final = (results[arm.evaluations[role]].metrics["kl_to_teacher"] for role in ("cold", "final"))
    assert final < cold


def test_a_stage_over_the_label_budget_stops_before_it_looks(run):
    _, planned, store, _ = run
    spec = next(spec for spec in planned.specs.values() if spec.name == "student_rl")
    greedy = spec.model_copy(update={"seed": 5, "execution": spec.execution | {"label_budget": 10}})
    greedy = type(spec).model_validate(greedy.model_dump())
    with pytest.raises(LabelBudgetError, match="over the budget of 10"):
        run_stage(greedy)
    (entry,) = (json.loads(line) for line in (store.dir(greedy) / "ledger.jsonl").read_text().splitlines())
    assert len(entry["problems"]) == 8  # the first step's; the second would have gone over
    assert "over the budget" in (store.dir(greedy) / "stage.log").read_text()


def test_the_report_is_complete_and_says_no_more_than_it_knows(run, tmp_path):
    config, planned, store, _ = run
    results = Results(planned, store)
    data = report_data(results, set(), config, "the command")
    page = write_report(tmp_path / "report", results, data, config.model_dump(mode="json"), shown=3)
    written = json.loads((page.parent / "report.json").read_text())
    for arm in ("full", "direct_grpo"):
        (row,) = written["arms"][arm]
        assert row["labels"] == 32
        assert {"avg_at_k", "k", "stderr", "greedy", "pass_at_k"} <= row["accuracy"].keys()
        assert {"name", "fingerprint", "cached", "seconds"} <= row["stages"][0].keys()
        assert row["tokens"] > 0
    assert written["arms"]["direct_grpo"][0]["conditions"]["c1_gain"] is None
    assert written["arms"]["full"][0]["conditions"]["c2_kl_before"] > 0
    (contrast,) = written["contrasts"]
    assert contrast["arms"] == ["full", "direct_grpo"]
    assert contrast["verdict"] in headline(data) or contrast["verdict"] == "holds"
    html = page.read_text()
    assert html.count("data:image/png;base64,") >= 4
    assert "<script" not in html
    assert "http" not in html.replace("http://www.w3.org", "")


def test_two_reports_of_one_experiment_differ_in_times_alone(run):
    config, planned, store, _ = run
    first, second = (report_data(Results(planned, store), set(), config, "c") for _ in range(2))
    assert json.dumps(first) == json.dumps(second)


def test_an_arm_with_a_missing_stage_shows_as_failed(run):
    config, _, store, _ = run
    other = plan(load_config("smoke", [*OVERRIDES, f"store={store.root}", "stages.opd.steps=3"]), None, [0])
    data = report_data(Results(other, store), set(), config, "c")
    assert data["failed"] == {"full": [0]}
    assert len(data["arms"]["direct_grpo"]) == 1
    assert "No two arms" in headline(data)


def test_model_output_is_escaped_in_the_page(run, tmp_path):
    config, planned, store, _ = run
    results = Results(planned, store)
    fingerprint = planned.arms["full"][0].evaluations["final"]
    path: Path = results.directory(fingerprint) / "samples.jsonl"
    original = path.read_text()
    lines = [json.loads(line) for line in original.splitlines()]
    for line in lines:
        line["completion"] = "<img src=x onerror=alert(1)>"
    try:
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        data = report_data(results, set(), config, "c")
        html = write_report(tmp_path / "report", results, data, {}, shown=2).read_text()
    finally:
        path.write_text(original)
    assert "<img src=x" not in html
    assert "&lt;img src=x" in html
