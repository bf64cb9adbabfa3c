"""A flow with a mirror: what one store finished is trained by no other, and a copy that failed is made up for."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.schemas.objects import State

from flows import prepare
from flows.experiment import Outcome, listening
from flows.sparse_to_dense import sparse_to_dense
from s2d_core.config.compose import load_config
from s2d_core.mirror import open_mirror
from s2d_core.plan import plan
from s2d_core.spec import StageSpec
from s2d_core.store import CHECKPOINTS, Store, checkpoints
from tasks.planning import describe, reasons

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

SHORT = ["stages.pretrain_student.steps=2", "stages.student_rl.steps=2", "launch.mode=inproc"]


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One database for all stores: making one takes seconds."""
    folder = tmp_path_factory.mktemp("tracking")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # MLflow puts artifacts there
        yield f"tracking.uri=sqlite:///{folder / 'mlflow.db'}"


class Unmounted:
    """Takes the mirror away when the last of ``stages`` is done; keeps how each stage ended."""

    def __init__(self, folder: Path, stages: int) -> None:
        self.folder, self.stages = folder, stages
        self.last: dict[str, str] = {}

    def __call__(self, spec: StageSpec, done: int, steps: int, state: str) -> None:
        self.last[spec.id] = state
        if list(self.last.values()).count("done") == self.stages:
            self.folder.rename(self.folder.with_name("elsewhere"))
            self.folder.touch()


def run(overrides: list[str]) -> State[Outcome]:
    state: State[Outcome] = sparse_to_dense("smoke", arms=["direct_grpo"], overrides=overrides, return_state=True)  # type: ignore[call-overload]
    return state


def test_what_is_in_the_mirror_is_fetched_and_not_trained_again(tmp_path: Path, tracking: str) -> None:
    folder = tmp_path / "mirror"
    mirrored = [*SHORT, tracking, f"mirror=file://{folder}"]
    first, second = ([f"store={tmp_path / name}", *mirrored] for name in ("first", "second"))
    specs = plan(load_config("smoke", first), ["direct_grpo"], [0]).specs

    watched = Unmounted(folder, stages=len(specs))
    with listening(watched):
        state = run(first)
    assert set(watched.last.values()) == {"done"}
    assert state.is_failed() and str(state.message).startswith(f"mirror = 'file://{folder}': cannot be given")

    folder.unlink()
    folder.with_name("elsewhere").rename(folder)
    watched = Unmounted(folder, stages=1)  # copied, not trained: nothing is ever done
    with listening(watched):
        assert run(first).is_completed()
    assert set(watched.last.values()) == {"cached"}

    prepared = prepare.evaluate("smoke", [], ["direct_grpo"], [0], "test", second)
    config = prepared.config
    why = reasons(prepared.plan, Store(config.store), open_mirror(config))
    assert set(why.values()) == {"in the mirror"}
    assert f"{len(why)} cached, 0 to run" in describe(prepared.plan, config, why)
    with listening(watched):
        assert run([*second, "launch.mode=ray"]).is_completed()  # would start a cluster if anything were missing
    assert set(watched.last.values()) == {"cached"}
    assert all(Store(config.store).result(spec) == Store(tmp_path / "first").result(spec) for spec in specs.values())


class DiskLostError(Exception):
    pass


def test_a_running_stage_s_newest_checkpoint_is_in_the_mirror(tmp_path: Path, tracking: str) -> None:
    settings = ["launch.mode=inproc", "launch.retries=0", tracking, f"mirror=file://{tmp_path}/mirror"]
    settings += ["stages.pretrain_student.steps=5000", "training.checkpoint_every=10", "training.checkpoints_kept=10"]

    def lose_the_disk_after_a_copy(spec: StageSpec, done: int, steps: int, state: str) -> None:
        if state == "running" and list((tmp_path / "mirror").glob("pretrain_student-*/copy.json")):
            raise DiskLostError

    with listening(lose_the_disk_after_a_copy):
        assert run([f"store={tmp_path / 'lost'}", *settings]).is_failed()
    config = load_config("smoke", [f"store={tmp_path / 'new'}", *settings])
    (spec,) = (s for s in plan(config, ["direct_grpo"], [0]).specs.values() if s.name == "pretrain_student")
    copies = open_mirror(config)
    assert copies
    copies.fetch(spec)
    assert len(checkpoints(Store(config.store).dir(spec) / CHECKPOINTS)) == 1
