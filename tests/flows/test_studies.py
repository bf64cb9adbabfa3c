"""The flows that train many arms, on a real Prefect server: shared stages once, failures contained, words and files."""

import json
from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient
from prefect.client.schemas.objects import State

from flows import prepare
from flows.ablations import ablations
from flows.allocation import allocation
from flows.evaluate import evaluate
from flows.experiment import Outcome, listening
from flows.tune import tune
from s2d_core.config.compose import load_config
from s2d_core.spec import StageSpec
from s2d_core.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

ARMS = ["full", "warmup_only"]
OWN = {"own": {"description": "Two steps.", "stages": [{"stage": "student_rl", "set": {"steps": 2}}]}}


def settings(root: Path) -> list[str]:
    return [f"store={root}", "launch.mode=inproc", "launch.retries=0"]


class Ends:
    """How often each stage ended in each way."""

    def __init__(self) -> None:
        self.count: Counter[tuple[str, str]] = Counter()

    def __call__(self, spec: StageSpec, done: int, steps: int, state: str) -> None:
        if state in ("done", "cached", "failed"):
            self.count[state, spec.id] += 1

    def ids(self, state: str) -> list[str]:
        return sorted(id for (ended, id) in self.count.elements() if ended == state)


def test_shared_stages_train_once_a_failure_stays_in_its_arm_and_a_re_run_does_what_is_missing(tmp_path: Path) -> None:
    root = tmp_path / "store"
    planned = prepare.ablations("smoke", ARMS, [0], settings(root)).plan
    opd = next(spec for spec in planned.specs.values() if spec.name == "opd")
    blocked = Store(root).begin(opd) / "checkpoints"
    blocked.write_text("not a folder")

    first, second = Ends(), Ends()
    with listening(first):
        state = run(ablations, root, arms=ARMS, seeds=[0], extra_arms=OWN)
    assert state.is_failed() and opd.id in str(state.message)
    data = json.loads((root / "latest" / "report.json").read_text())
    assert data["failed"] == {"full": [0]}
    assert [len(data["arms"][arm]) for arm in ("full", "warmup_only", "own")] == [0, 1, 1]
    assert "failed" in (root / "latest" / "report.html").read_text()
    assert first.ids("failed") == [opd.id]
    trained = first.ids("done")
    assert len(trained) == len(set(trained))
    assert Counter(id.rsplit("-", 1)[0] for id in trained if not id.startswith("evaluate")) == {
        "data": 1, "pretrain_teacher": 1, "pretrain_student": 1, "teacher_rl": 1, "warmup": 1, "student_rl": 1
    }  # fmt: skip

    blocked.unlink()
    with listening(second):
        state = run(ablations, root, arms=ARMS, seeds=[0], extra_arms=OWN)
    assert state.is_completed(), state.message
    assert [id.rsplit("-", 1)[0] for id in second.ids("done")] == ["evaluate", "opd"]
    assert second.ids("cached") == trained
    runs = finished_runs(root)
    assert Counter(runs) == Counter([*trained, *second.ids("done")])  # MLflow, too, saw each of them once


def test_stages_that_do_not_wait_for_each_other_run_side_by_side(tmp_path: Path) -> None:
    most = 0
    running: set[str] = set()

    def listener(spec: StageSpec, done: int, steps: int, state: str) -> None:
        nonlocal most
        (running.add if state in ("starting", "running") else running.discard)(spec.id)
        most = max(most, len(running))

    with listening(listener):
        state = run(ablations, tmp_path / "store", "launch.mode=ray", "launch.cpus=2", arms=["raw_teacher"], seeds=[0])
    assert state.is_completed(), state.message
    assert most == 2


def test_learning_rates_are_chosen_on_validation_and_leave_a_recipe(tmp_path: Path) -> None:
    root = tmp_path / "store"
    arms = ["direct_grpo", "warmup_only"]
    chosen = {"arms": arms, "factors": [0.5, 1.0], "trials": 3, "seeds": [0]}
    state = run(tune, root, **chosen)
    assert state.is_completed(), state.message
    data = json.loads((root / "latest" / "tuning.json").read_text())
    assert Counter((each["arm"], each["stage"]) for each in data["trials"]) == {
        ("direct_grpo", "student_rl"): 3, ("warmup_only", "teacher_rl"): 3, ("warmup_only", "warmup"): 3
    }  # fmt: skip
    splits = {json.loads(path.read_text())["settings"]["split"] for path in root.glob("stages/evaluate-*/spec.json")}
    assert splits == {"validation"}
    assert (root / "latest" / "learning_rates.png").stat().st_size > 5_000

    tuned = load_config(str(root / "latest" / "tuned.yaml"))
    for arm in arms:
        rates = [entry.set["optimiser.lr"] for entry in tuned.arms[arm].stages]
        assert rates == [each["lr"] for each in data["chosen"][arm]]
    again = Ends()
    with listening(again):
        assert run(tune, root, **chosen).is_completed()
    assert not again.ids("done")


def test_allocation_answers_in_words_with_pictures_and_no_arm_looks_at_more_labels_than_it_has(tmp_path: Path) -> None:
    root = tmp_path / "store"
    state = run(allocation, root, shares=[0.0, 0.5], label_counts=[16, 32], seeds=[0])
    assert state.is_completed(), state.message
    data = json.loads((root / "latest" / "allocation.json").read_text())
    assert [words.split(":")[0] for words in data["findings"]] == ["With 16 labels", "With 32 labels"]
    assert all("go" in words for words in data["findings"])
    assert len(data["points"]) == 4
    assert all(0 < point["labels_looked_at"] <= point["labels"] for point in data["points"])
    assert all(point["device_seconds"] > 0 for point in data["points"])
    assert {path.name for path in (root / "latest").glob("*.png")} == {"share.png", "pareto.png"}


@pytest.mark.filterwarnings("error:constrained_layout")  # a checkpoint's path is a long name for a row
def test_a_finished_arm_and_a_model_folder_are_measured_on_a_split_and_nothing_is_trained(tmp_path: Path) -> None:
    root = tmp_path / "store"
    assert run(ablations, root, arms=["direct_grpo"], seeds=[0]).is_completed()
    (folder,) = root.glob("stages/student_rl-*/model")
    ends = Ends()
    with listening(ends):
        state = run(evaluate, root, checkpoints=[str(folder)], arms=["direct_grpo"], split="validation")
    assert state.is_completed(), state.message
    assert [id.rsplit("-", 1)[0] for id in ends.ids("done")] == ["checkpoint", "evaluate", "evaluate"]
    data = json.loads((root / "latest" / "report.json").read_text())
    model, arm = (data["arms"][name][0]["accuracy"] for name in (str(folder), "direct_grpo"))
    assert model == arm  # the same weights, the same problems, the same samples


def run(flow, root: Path, *overrides: str, **parameters: object) -> State[Outcome]:  # type: ignore[no-untyped-def]
    given = [*settings(root), *overrides]
    state: State[Outcome] = flow(recipe="smoke", overrides=given, return_state=True, **parameters)
    return state


def finished_runs(root: Path) -> list[str]:
    """Names of the stages' finished runs in MLflow."""
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("sparse-to-dense")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], "attributes.status = 'FINISHED'", max_results=1000)
    return [each.info.run_name for each in found if "s2d.fingerprint" in each.data.tags]
