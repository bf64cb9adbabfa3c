"""The flow on a real Prefect server, every stage in process: what runs, what is reused, what a failure costs."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State

from flows.experiment import Outcome, listening
from flows.sparse_to_dense import sparse_to_dense
from s2d_core.config.compose import load_config
from s2d_core.errors import ConfigError
from s2d_core.plan import plan
from s2d_core.spec import StageSpec
from s2d_core.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

ARMS = ["full", "direct_grpo"]


def run(root: Path, *overrides: str, **parameters: object) -> State[Outcome]:
    settings = [f"store={root}", "launch.mode=inproc", *overrides]
    state: State[Outcome] = sparse_to_dense("smoke", overrides=settings, return_state=True, **parameters)  # type: ignore[call-overload]
    return state


class Watched:
    """States that each stage went through, as a terminal would be told."""

    def __init__(self) -> None:
        self.states: dict[str, list[str]] = {}

    def __call__(self, spec: StageSpec, done: int, steps: int, state: str) -> None:
        self.states.setdefault(spec.id, []).append(state)

    def last(self, state: str) -> int:
        return sum(states[-1] == state for states in self.states.values())


@pytest.fixture(scope="module")
def finished(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, State[Outcome]]]:
    """A store in which the smoke experiment has run once, and the state that the run ended in."""
    root = tmp_path_factory.mktemp("flow") / "store"
    yield root, run(root)


def test_a_run_measures_every_arm_and_writes_the_report(finished: tuple[Path, State[Outcome]]) -> None:
    root, state = finished
    assert state.is_completed(), state.message
    report = json.loads((root / "latest" / "report.json").read_text())
    assert sorted(report["arms"]) == sorted(ARMS)
    for runs in report["arms"].values():
        (only,) = runs
        assert only["seed"] == 0
        assert {"avg_at_k", "k", "stderr", "greedy", "pass_at_k"} <= only["accuracy"].keys()
        assert only["labels"] == 32
        assert all(not stage["cached"] for stage in only["stages"])
    assert (root / "latest" / "report.html").stat().st_size > 10_000


def test_the_same_experiment_again_trains_nothing_and_never_starts_ray(finished: tuple[Path, State[Outcome]]) -> None:
    import ray

    root, _ = finished
    written = {path: path.stat().st_mtime_ns for path in root.glob("stages/*/manifest.json")}
    watched = Watched()
    with listening(watched):
        state = run(root, "launch.mode=ray")  # would start a cluster if anything were missing
    assert state.is_completed()
    assert not ray.is_initialized()
    assert watched.last("cached") == len(written) == 13
    assert written == {path: path.stat().st_mtime_ns for path in root.glob("stages/*/manifest.json")}
    report = json.loads((root / "latest" / "report.json").read_text())
    assert all(stage["cached"] for runs in report["arms"].values() for stage in runs[0]["stages"])


def test_a_new_experiment_reuses_the_stages_it_shares(finished: tuple[Path, State[Outcome]]) -> None:
    root, _ = finished
    watched = Watched()
    with listening(watched):
        state = run(root, "stages.student_rl.optimiser.lr=0.001", arms=["direct_grpo"])
    assert state.is_completed()
    assert watched.last("done") == 2  # student_rl and its evaluation
    assert watched.last("cached") == 2  # the data and the pretrained student


def test_a_dry_run_trains_nothing_and_publishes_the_plan(prefect_server: None, tmp_path: Path) -> None:
    state = run(tmp_path / "store", dry_run=True)
    assert state.is_completed()
    assert "13 would run" in str(state.message)
    assert not (tmp_path / "store" / "stages").exists()
    assert [artifact.key for artifact in artifacts_of(state)] == ["plan"]


def test_stages_are_tasks_and_the_end_has_tables_and_pictures(finished: tuple[Path, State[Outcome]]) -> None:
    _, state = finished
    with get_client(sync_client=True) as client:
        chosen = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
        tasks = client.read_task_runs(flow_run_filter=chosen)
    assert len([task for task in tasks if task.name.split("-")[0] in ("data", "evaluate", "teacher_rl", "opd")]) == 9
    found = {artifact.key: artifact for artifact in artifacts_of(state)}
    assert {"plan", "links", "accuracy", "report"} <= found.keys()
    assert "mlflow ui --backend-store-uri sqlite:///" in str(found["links"].data)
    assert "data:image/png;base64," in str(found["report"].data)
    progress = [artifact for key, artifact in found.items() if key and key.startswith("teacher-rl")]
    assert [artifact.data for artifact in progress] == [100.0]


def test_a_verdict_other_than_expected_fails_the_run_and_leaves_its_report(
    finished: tuple[Path, State[Outcome]],
) -> None:
    root, _ = finished
    report = root / "latest" / "report.json"
    (contrast,) = json.loads(report.read_text())["contrasts"]
    found, written = contrast["verdict"], report.resolve()
    other = next(verdict for verdict in ("holds", "undecided") if verdict != found)
    assert run(root, expect={contrast["name"]: found}).is_completed()
    state = run(root, expect={contrast["name"]: other})
    assert state.is_failed()
    message = str(state.message)
    assert message.startswith(f"{contrast['name']}: expected {other!r}, found {found!r}") and "interval" in message
    assert report.resolve() != written


def test_one_arms_failure_leaves_the_others_running_and_fails_the_flow(
    finished: tuple[Path, State[Outcome]], tmp_path: Path
) -> None:
    """The teacher cannot be pretrained: only the arm that has a teacher fails."""
    root = tmp_path / "store"
    overrides = [f"store={root}", "launch.mode=inproc", "launch.retries=0"]
    specs = plan(load_config("smoke", overrides), ARMS, [0]).specs.values()
    broken = next(spec for spec in specs if spec.name == "pretrain_teacher")
    directory = Store(root).begin(broken)
    (directory / "checkpoints").write_text("not a folder")  # training can neither read nor write its checkpoints
    state = run(root, "launch.retries=0")
    assert state.is_failed()
    assert broken.id in str(state.message)
    assert "Traceback" not in str(state.message)
    report = json.loads((root / "latest" / "report.json").read_text())
    assert len(report["arms"]["direct_grpo"]) == 1
    assert report["arms"]["full"] == []
    assert report["failed"] == {"full": [0]}


def test_a_stage_over_its_time_limit_is_stopped_and_named(prefect_server: None, tmp_path: Path) -> None:
    limits = ["launch.stage_timeout_s=2", "launch.retries=0", "stages.pretrain_student.steps=100000"]
    state = run(tmp_path / "store", *limits, arms=["direct_grpo"])
    assert state.is_failed()
    assert "launch.stage_timeout_s = 2" in str(state.message)
    (metrics,) = (tmp_path / "store").glob("stages/pretrain_student-*/metrics.jsonl")
    steps = len(metrics.read_text().splitlines())
    time.sleep(1.0)
    assert len(metrics.read_text().splitlines()) == steps  # nothing goes on training behind the flow's back


def test_a_configuration_error_ends_the_flow_before_anything_is_written(prefect_server: None, tmp_path: Path) -> None:
    state = run(tmp_path / "store", "stages.opd.steps=0")
    assert state.is_failed()
    with pytest.raises(ConfigError, match=r"stages\.opd\.steps"):
        state.result()
    assert not (tmp_path / "store").exists()


def artifacts_of(state: State[Outcome]):  # type: ignore[no-untyped-def]
    with get_client(sync_client=True) as client:
        run_id = ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id])
        return client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=run_id))
