"""``kill -9`` of a training worker in the middle of a stage: the stage goes on by itself and nothing differs."""

import json
import time
from pathlib import Path

import psutil
import pytest

from s2d_core.config.compose import load_config
from s2d_core.config.schema import Config
from s2d_core.launch import launch
from s2d_core.launch.cluster import connect, disconnect
from s2d_core.plan import plan
from s2d_core.spec import StageSpec
from s2d_core.store import Store

pytestmark = pytest.mark.slow

STEPS = 400


def configured(root: Path, mode: str) -> Config:
    overrides = [f"stages.pretrain_student.steps={STEPS}", "training.checkpoint_every=20", "launch.cpus=2"]
    return load_config("smoke", [f"store={root}", f"launch.mode={mode}", *overrides])


def pretraining(config: Config) -> StageSpec:
    return next(spec for spec in plan(config, ["direct_grpo"], [0]).specs.values() if spec.name == "pretrain_student")


def numbers(config: Config) -> list[dict[str, float]]:
    """What each step measured, times left out."""
    path = Store(config.store).dir(pretraining(config)) / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in line.items() if "second" not in name} for line in lines]


def training_workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "TrainWorker" in child.name()]


def test_a_killed_worker_changes_no_number(tmp_path: Path) -> None:
    undisturbed = configured(tmp_path / "undisturbed", "inproc")
    handle = launch(pretraining(undisturbed), undisturbed.launch)
    assert handle.wait(120.0)
    handle.result()

    disturbed = configured(tmp_path / "disturbed", "ray")
    spec = pretraining(disturbed)
    connect(disturbed)
    try:
        handle = launch(spec, disturbed.launch)
        checkpoints = Store(disturbed.store).dir(spec) / "checkpoints"
        deadline = time.monotonic() + 120
        while not any(checkpoints.glob("step_*")):
            assert time.monotonic() < deadline and not handle.wait(0.05)
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
