"""The rows and options that the main arms do not use, each trained for a few steps in this process."""

import json

import psutil
import pytest

from s2d_core.config.compose import load_config
from s2d_core.errors import StageError
from s2d_core.plan import plan
from s2d_core.recipe import spends_labels
from s2d_core.run_stage import run_stage
from s2d_core.store import Store

ARMS = [
    "sft_teacher",
    "same_size_teacher",
    "teacher_sample_sft",
    "fkl_weighted",
    "delta_teacher",
    "trek",
    "sampled_token_opd",
    "topk_opd",
    "jsd_bridge",
    "mixed_density",
]
# Enough pretraining that some answers are right: SFT, TREK and pass rates have nothing to read otherwise.
OVERRIDES = [
    "launch.mode=inproc",
    "stages.pretrain_teacher.steps=300",
    "stages.pretrain_student.steps=300",
    *(f"arms.{arm}.stages.1.set.steps=4" for arm in ("fkl_weighted", "delta_teacher")),
    "arms.trek.stages.1.set.trek.max_pass_rate=0.5",
    "evaluation.k=2",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(plan, store, results by fingerprint) of all of ``ARMS``."""
    store = tmp_path_factory.mktemp("store")
    planned = plan(load_config("smoke", [*OVERRIDES, f"store={store}"]), ARMS, [0])
    return planned, Store(store), {f: run_stage(spec) for f, spec in planned.specs.items()}


@pytest.mark.slow
@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_trains_every_stage_and_charges_those_that_look_at_answers(run, arm):
    planned, store, results = run
    for fingerprint in planned.arms[arm][0].stages:
        spec, result = planned.specs[fingerprint], results[fingerprint]
        if spec.kind != "train" or spec.name.startswith("pretrain"):
            continue
        lines = [json.loads(line) for line in (store.dir(spec) / "metrics.jsonl").read_text().splitlines()]
        assert len(lines) == spec.settings["steps"]
        assert any(line["grad_norm"] > 0 for line in lines), spec.id
        assert (result.labels > 0) == spends_labels(spec.name, spec.settings), spec.id


@pytest.mark.slow
def test_imitation_lowers_the_loss_on_what_is_imitated(run):
    planned, store, _ = run
    spec = next(spec for spec in planned.specs.values() if spec.name == "sft")
    lines = [json.loads(line) for line in (store.dir(spec) / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_a_stage_that_fails_leaves_no_process_to_the_next_one_in_its_own(tmp_path):
    untrained = ["stages.pretrain_teacher.steps=1", "stages.pretrain_student.steps=1"]
    planned = plan(load_config("smoke", ["launch.mode=inproc", f"store={tmp_path}", *untrained]), ["trek"], [0])
    chain = [planned.specs[fingerprint] for fingerprint in planned.arms["trek"][0].stages]
    warmup = next(spec for spec in chain if spec.name == "warmup")
    for spec in chain[: chain.index(warmup)]:
        run_stage(spec)
    before = set(psutil.Process().children())
    with pytest.raises(StageError, match="none of the teacher's rollouts is right"):
        run_stage(warmup)
    assert set(psutil.Process().children()) <= before
