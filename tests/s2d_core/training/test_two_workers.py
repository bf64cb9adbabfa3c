"""Two FSDP2 workers and their fleet under Ray Train end where one process ends; one resumes a checkpoint of two."""

import json

import pytest
import torch
from safetensors.torch import load_file

from s2d_core.config.compose import load_config
from s2d_core.launch.cluster import connect, disconnect
from s2d_core.plan import plan
from s2d_core.run_stage import run_stage
from s2d_core.store import Store
from s2d_core.training.ray_train import fit

pytestmark = pytest.mark.slow
SETTINGS = ["stages.pretrain_student.steps=10", "stages.warmup.steps=10", "training.checkpoint_every=5"]


def planned(store, *overrides):
    config = load_config("smoke", [*SETTINGS, f"store={store}", *overrides])
    return config, plan(config, ["full"], [0])


def named(of, name):
    return next(spec for spec in of.specs.values() if spec.name == name)


def weights(store, spec):
    return load_file(Store(store).dir(spec) / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Everything up to OPD by one process."""
    store = tmp_path_factory.mktemp("alone")
    _, of = planned(store)
    for spec in of.specs.values():
        if spec.kind != "evaluate":
            run_stage(spec)
    return store


def test_two_workers_train_what_one_does_and_one_resumes_what_two_left(alone, tmp_path):
    workers = ["training.workers=2", "resources.warmup.rollouts.workers=2"]
    config, of = planned(tmp_path, *workers, "launch.parallel_stages=1", "launch.cpus=4")
    (tmp_path / "stages").mkdir()
    for spec in of.specs.values():  # the same parents, so that each stage is compared by itself
        if spec.name in ("data", "pretrain_teacher", "teacher_rl", "pretrain_student"):
            (tmp_path / "stages" / spec.id).symlink_to(Store(alone).dir(spec))
    (tmp_path / "stages" / named(of, "pretrain_student").id).unlink()
    connect(config)
    try:
        for name in ("pretrain_student", "warmup"):
            fit(named(of, name))
    finally:
        disconnect()
    for name in ("pretrain_student", "warmup"):
        spec = named(of, name)
        ours, theirs = weights(tmp_path, spec), weights(alone, spec)
        assert ours.keys() == theirs.keys()
        for key in theirs:
            torch.testing.assert_close(ours[key], theirs[key], atol=1e-4, rtol=1e-3)
        lines, expected = (
            [json.loads(line) for line in (Store(s).dir(spec) / "metrics.jsonl").read_text().splitlines()]
            for s in (tmp_path, alone)
        )
        for a, b in zip(lines, expected, strict=True):
            assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)
            assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-2)
            assert a["tokens_trained"] == b["tokens_trained"]

    # One process goes on from the checkpoint that two wrote after five steps.
    spec = named(of, "pretrain_student")
    directory = Store(tmp_path).dir(spec)
    (directory / "manifest.json").unlink()
    newest = directory / "checkpoints" / "step_000010"
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    run_stage(spec)
    assert "steps 6 to 10" in (directory / "stage.log").read_text()
    for key, value in weights(alone, spec).items():
        torch.testing.assert_close(weights(tmp_path, spec)[key], value, atol=1e-4, rtol=1e-3)
