"""A stage on a cluster, disturbed in the middle: killed, it goes on by itself and no number differs; cancelled, it is
gone at once."""

import json
import time
from pathlib import Path

import psutil
import pytest

from s2d_core.config.compose import load_config
from s2d_core.config.schema import Config
from s2d_core.errors import StageError
from s2d_core.launch import Handle, launch
from s2d_core.launch.cluster import connect, disconnect
from s2d_core.plan import plan
from s2d_core.spec import StageSpec
from s2d_core.store import Store

pytestmark = pytest.mark.slow

STEPS = 400


def configured(root: Path, mode: str, steps: int = STEPS, workers: int = 1) -> Config:
    overrides = [f"stages.pretrain_student.steps={steps}", "training.checkpoint_every=20", "launch.cpus=2"]
    overrides.append(f"training.workers={workers}")
    return load_config("smoke", [f"store={root}", f"launch.mode={mode}", *overrides])


def pretraining(config: Config) -> StageSpec:
    return next(spec for spec in plan(config, ["direct_grpo"], [0]).specs.values() if spec.name == "pretrain_student")


def numbers(config: Config) -> list[dict[str, float]]:
    """What each step measured, times left out."""
    path = Store(config.store).dir(pretraining(config)) / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in line.items() if "second" not in name} for line in lines]


def training_workers() -> list[psutil.Process]:
    """The processes that train. Ray names them by what they do."""
    return [child for child in psutil.Process().children(recursive=True) if "pretrain_student" in child.name()]


def in_the_middle(spec: StageSpec, config: Config) -> Handle:
    """``spec`` launched, and at its first checkpoint by now."""
    handle, deadline = launch(spec, config.launch), time.monotonic() + 240
    while not any((Store(config.store).dir(spec) / "checkpoints").glob("step_*")):
        assert time.monotonic() < deadline and not handle.wait(0.05)
    return handle


def test_a_killed_worker_changes_no_number(tmp_path: Path) -> None:
    undisturbed = configured(tmp_path / "undisturbed", "inproc")
    handle = launch(pretraining(undisturbed), undisturbed.launch)
    assert handle.wait(240.0)
    handle.result()

    disturbed = configured(tmp_path / "disturbed", "ray")
    spec = pretraining(disturbed)
    connect(disturbed)
    try:
        handle = in_the_middle(spec, disturbed)
        (worker,) = training_workers()
        worker.kill()
        assert handle.wait(240.0)
        handle.result()
    finally:
        disconnect()
    log = (Store(disturbed.store).dir(spec) / "stage.log").read_text()
    assert log.count(f"to {STEPS}") == 2  # it really began twice
    assert numbers(disturbed) == numbers(undisturbed)
    weights = [Store(c.store).dir(pretraining(c)) / "model" / "model.safetensors" for c in (disturbed, undisturbed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_cancelled_stage_frees_its_workers_within_15_seconds(tmp_path: Path) -> None:
    config = configured(tmp_path, "ray", steps=100_000)
    connect(config)
    try:
        handle = in_the_middle(pretraining(config), config)
        (worker,) = training_workers()
        began = time.monotonic()
        handle.cancel()
        psutil.wait_procs([worker], timeout=120)
        assert not worker.is_running() and time.monotonic() - began < 15
        assert handle.wait(1.0)
        with pytest.raises(StageError, match="pretrain_student"):
            handle.result()
    finally:
        disconnect()


def test_a_cancelled_stage_of_two_workers_gives_back_all_that_it_held(tmp_path: Path) -> None:
    config = configured(tmp_path, "ray", steps=100_000, workers=2)
    connect(config)
    import ray

    try:
        handle = in_the_middle(pretraining(config), config)
        assert ray.available_resources().get("CPU", 0) == 0
        began = time.monotonic()
        handle.cancel()
        while ray.available_resources().get("CPU", 0) < 2:
            assert time.monotonic() - began < 15
            time.sleep(0.2)
    finally:
        disconnect()


def test_stages_with_one_worker_share_a_warm_process_and_the_failure_of_one_spoils_nothing(tmp_path: Path) -> None:
    config = configured(tmp_path, "ray", steps=2)
    configs = [config, configured(tmp_path, "ray", steps=3), configured(tmp_path, "ray", steps=4)]
    broken = Store(tmp_path).begin(pretraining(configs[1]))
    (broken / "checkpoints").write_text("not a folder")
    config = config.model_copy(update={"launch": config.launch.model_copy(update={"cpus": 1})})
    seconds = []
    connect(config)
    try:
        for each in configs:
            began = time.monotonic()
            handle = launch(pretraining(each), each.launch)
            assert handle.wait(240.0)
            seconds.append(time.monotonic() - began)
            if each is configs[1]:
                with pytest.raises(StageError, match="checkpoints"):
                    handle.result()
            else:
                assert handle.result().name == "pretrain_student"
    finally:
        disconnect()
    assert seconds[2] < seconds[0] / 3  # no process started, nothing imported
