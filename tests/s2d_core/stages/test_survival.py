"""Kill a stage at any moment: the next try goes on from its last checkpoint and ends with the same numbers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from s2d_core.config.compose import load_config
from s2d_core.plan import plan
from s2d_core.run_stage import run_stage
from s2d_core.store import Store, write_json

STEPS = 30


def planned(store: Path):
    overrides = [
        f"store={store}",
        f"stages.teacher_rl.steps={STEPS}",
        f"stages.opd.steps={STEPS}",
        "stages.opd.prompts_per_step=16",
        "stages.teacher_rl.prompts_per_step=16",
        "training.checkpoint_every=7",
    ]
    return plan(load_config("smoke", overrides), ["full"], [0])


def stage(of, name):
    return next(spec for spec in of.specs.values() if spec.name == name)


def without_times(directory):
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "second" not in k} for line in lines]


@pytest.mark.parametrize("name", ["teacher_rl", "opd"])
def test_a_stage_killed_in_the_middle_ends_bit_equal_to_an_undisturbed_one(tmp_path, name):
    calm, hit = planned(tmp_path / "calm"), planned(tmp_path / "hit")
    for each in (calm, hit):
        for spec in each.specs.values():
            if spec.name == name:
                break
            run_stage(spec)
    run_stage(stage(calm, name))

    spec, store = stage(hit, name), Store(tmp_path / "hit")
    directory = store.begin(spec)
    write_json(tmp_path / "spec.json", spec.model_dump(mode="json"))
    command = [sys.executable, "-m", "s2d_core.run_stage", str(tmp_path / "spec.json"), "--inproc"]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    metrics, deadline = directory / "metrics.jsonl", time.monotonic() + 240
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 10:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert store.result(spec) is None
    left = sorted(path.name for path in (directory / "checkpoints").glob("step_*"))
    assert left
    assert left[-1] < f"step_{STEPS:06d}"

    resumed = run_stage(spec)
    assert "steps 1 to" not in (directory / "stage.log").read_text().splitlines()[-1]
    calm_directory = Store(tmp_path / "calm").dir(stage(calm, name))
    assert without_times(directory) == without_times(calm_directory)
    assert resumed.metrics == Store(tmp_path / "calm").result(stage(calm, name)).metrics
    ours, theirs = (load_file(d / "model" / "model.safetensors") for d in (directory, calm_directory))
    assert all((ours[key] == theirs[key]).all() for key in theirs)


def test_a_checkpoint_that_was_not_finished_is_not_resumed_from(tmp_path):
    each = planned(tmp_path)
    for spec in each.specs.values():
        if spec.name == "teacher_rl":
            break
        run_stage(spec)
    directory = Store(tmp_path).begin(stage(each, "teacher_rl"))
    partial = directory / "checkpoints" / ".step_000014.partial"
    partial.mkdir(parents=True)
    (partial / "__0_0.distcp").write_bytes(b"half of it")
    run_stage(stage(each, "teacher_rl"))
    assert len(without_times(directory)) == STEPS
