"""MLflow's view, on a real SQLite store: complete, found again by fingerprint, rebuilt when it was lost."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from sqlalchemy import event
from sqlalchemy.pool import Pool

from s2d_core.config.schema import Config
from s2d_core.plan import plan
from s2d_core.run_stage import run_stage
from s2d_core.spec import StageResult, StageSpec
from s2d_core.store import Store
from tasks.locks import exclusive
from tasks.tracking import AT_ONCE, Tracker

pytestmark = pytest.mark.slow


class Finished:
    """A really trained stage, and where it lies."""

    def __init__(self, config: Config) -> None:
        self.config = config
        planned = plan(config, ["direct_grpo"], [0])
        self.spec: StageSpec = next(spec for spec in planned.specs.values() if spec.name == "pretrain_student")
        self.store = Store(config.store)
        run_stage(self.spec)
        result = self.store.result(self.spec)
        assert result is not None
        self.result: StageResult = result
        self.directory: Path = self.store.dir(self.spec)
        self.lines = [json.loads(line) for line in (self.directory / "metrics.jsonl").read_text().splitlines()]

    def tracker(self) -> Tracker:
        return Tracker(self.config, [0], ["direct_grpo"])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    from s2d_core.config.compose import load_config

    root = tmp_path_factory.mktemp("tracking")
    return Finished(load_config("smoke", [f"store={root / 'store'}", "launch.mode=inproc"]))


def test_who_comes_second_to_a_new_store_waits_until_the_database_is_made(smoke: Config) -> None:
    root = Path(smoke.store)
    with ThreadPoolExecutor() as pool:
        with exclusive(root / "mlflow.lock"):
            second = pool.submit(Tracker, smoke, [0], ["direct_grpo"])
            with pytest.raises(TimeoutError):
                second.result(timeout=1.0)
            assert not (root / "mlflow.db").exists()
        assert second.result(timeout=120.0).parent


def test_a_finished_stage_has_one_nested_run_with_everything_about_it(stage: Finished) -> None:
    tracker = stage.tracker()
    tracker.link(stage.spec, stage.result, stage.directory)  # MLflow never saw it: rebuilt from the stage directory
    run_id = tracker.find(stage.spec.fingerprint)
    assert run_id is not None
    client = MlflowClient(tracker.uri)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == tracker.parent
    assert run.data.tags["s2d.fingerprint"] == stage.spec.fingerprint
    assert run.data.tags["s2d.stage"] == "pretrain_student"
    assert Path(run.data.tags["s2d.checkpoint"]).is_dir()
    assert float(run.data.params["optimiser.lr"]) == stage.spec.settings["optimiser"]["lr"]
    assert run.data.metrics["total_seconds"] == pytest.approx(stage.result.seconds)
    assert run.data.metrics["total_tokens_trained"] == stage.result.tokens["trained"]
    history = client.get_metric_history(run_id, "loss")
    assert [(each.step, each.value) for each in history] == [(line["step"], line["loss"]) for line in stage.lines]
    artifacts = {artifact.path for artifact in client.list_artifacts(run_id)}
    assert {"spec.json", "manifest.json", "checkpoint"} <= artifacts
    assert any(a.path.endswith("model.safetensors") for a in client.list_artifacts(run_id, "checkpoint"))


def test_a_later_experiment_links_the_run_and_logs_nothing_again(stage: Finished) -> None:
    first = stage.tracker()
    first.link(stage.spec, stage.result, stage.directory)
    second = stage.tracker()
    second.link(stage.spec, stage.result, stage.directory)
    run_id = first.find(stage.spec.fingerprint)
    client = MlflowClient(second.uri)
    assert client.get_run(second.parent).data.tags[f"s2d.cached.{stage.spec.id}"] == run_id
    experiment = client.get_run(second.parent).info.experiment_id
    runs = client.search_runs([experiment], f"tags.`s2d.fingerprint` = '{stage.spec.fingerprint}'")
    assert [run.info.run_id for run in runs if run.info.status == "FINISHED"] == [run_id]


def test_the_run_of_a_killed_process_is_closed_when_the_stage_starts_again(stage: Finished) -> None:
    tracker = stage.tracker()
    lost = tracker.start(stage.spec)  # and then its process is killed
    again = stage.tracker().start(stage.spec)
    client = MlflowClient(tracker.uri)
    assert client.get_run(lost).info.status == "KILLED"
    assert client.get_run(again).info.status == "RUNNING"


def test_the_parent_run_holds_the_configuration_and_ends_as_the_experiment_did(stage: Finished) -> None:
    tracker = stage.tracker()
    tracker.close(None, succeeded=False, metrics={"avg_at_k/full": 0.5})
    run = MlflowClient(tracker.uri).get_run(tracker.parent)
    assert run.info.status == "FAILED"
    assert run.data.tags["s2d.arms"] == "direct_grpo"
    assert run.data.metrics == {"avg_at_k/full": 0.5}
    assert [a.path for a in MlflowClient(tracker.uri).list_artifacts(tracker.parent)] == ["config.json"]


def test_hundreds_of_threads_share_few_of_mlflows_connections(stage: Finished) -> None:
    out, most = [], []  # connections that MLflow's pool has given away

    def given(*_: Any) -> None:
        out.append(None)
        most.append(len(out))

    def returned(*_: Any) -> None:
        out.pop()

    tracker = stage.tracker()
    event.listen(Pool, "checkout", given)
    event.listen(Pool, "checkin", returned)
    try:
        with ThreadPoolExecutor(100) as threads:
            found = list(threads.map(lambda _: tracker.find("0" * 16), range(200)))
    finally:
        event.remove(Pool, "checkout", given)
        event.remove(Pool, "checkin", returned)
    assert found == [None] * 200
    assert 0 < max(most) <= AT_ONCE < 15
