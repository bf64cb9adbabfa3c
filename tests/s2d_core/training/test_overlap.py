"""Sampling ahead: which weights a batch comes from, whatever takes longer, and after a resume."""

import threading
import time

import pytest

from s2d_core.config.compose import load_config
from s2d_core.plan import plan
from s2d_core.rollouts.types import Request, Rollout
from s2d_core.training.overlap import Overlap

STEPS = 6


def requests(step):
    return [Request(f"{step}/{index}", (1, 2), step) for index in range(3)]


class Policy:
    """A sampler whose completions are the number of updates it has seen."""

    def __init__(self, seconds=0.0):
        self.updates, self.seconds, self.busy = 0, seconds, threading.Lock()

    def sample(self, wanted):
        with self.busy:
            groups = [[Rollout(r.problem_id, r.prompt_ids, [self.updates], [0.0], "stop")] for r in wanted]
            time.sleep(self.seconds)
            return groups

    def update(self):
        assert not self.busy.locked(), "the weights changed under a sampler at work"
        self.updates += 1


def run(policy, directory, start=0, stop=STEPS, train_s=0.0):
    """Updates seen by the weights that each step's rollouts came from."""
    overlap, seen = Overlap(policy.sample, requests, STEPS, directory), []
    for step in range(start, stop):
        groups = overlap.take(step)
        assert [group[0].problem_id for group in groups] == [request.problem_id for request in requests(step)]
        seen.append(groups[0][0].completion_ids[0])
        time.sleep(train_s)
        overlap.settle()
        policy.update()
        overlap.keep(step + 1, 2)
    overlap.close()
    return seen


@pytest.mark.parametrize(("sample_s", "train_s"), [(0.0, 0.0), (0.03, 0.0), (0.0, 0.03)])
def test_a_batch_is_one_update_behind_whichever_side_is_faster(tmp_path, sample_s, train_s):
    assert run(Policy(sample_s), tmp_path, train_s=train_s) == [0, 0, 1, 2, 3, 4]


def test_a_resumed_run_trains_on_the_batch_that_was_sampled_before_the_checkpoint(tmp_path):
    assert run(Policy(), tmp_path, stop=3) == [0, 0, 1]
    resumed = Policy()
    resumed.updates = 3  # what the checkpoint holds
    assert run(resumed, tmp_path, start=3) == [2, 3, 4]
    assert len(list(tmp_path.glob("*.parquet"))) == 2


def test_what_goes_wrong_ahead_is_raised_where_it_is_waited_for(tmp_path):
    def broken(wanted):
        if wanted[0].seed == 1:
            raise ValueError("no more of this")
        return [[] for _ in wanted]

    overlap = Overlap(broken, requests, STEPS, tmp_path)
    overlap.take(0)
    with pytest.raises(ValueError, match="no more of this"):
        overlap.settle()
    overlap.close()


def test_staleness_changes_the_stages_that_sample_from_the_policy_and_no_other():
    fresh, stale = (
        plan(load_config("small_world", [f"rollouts.staleness={value}"]), ["full", "direct_grpo"], [0])
        for value in (0, 1)
    )
    by_name = [{spec.name: spec.settings for spec in each.specs.values()} for each in (fresh, stale)]
    changed = {name for name, settings in by_name[1].items() if settings != by_name[0][name]}
    assert changed == {"teacher_rl", "opd", "student_rl"}


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("teacher_rl", "policy_gradient.truncated_importance_cap=null"),
        ("teacher_rl", "policy_gradient.refill_rounds=1"),
        ("opd", "divergence.estimator=sampled_token"),
    ],
)
def test_a_stage_that_needs_the_policy_s_own_samples_is_not_sampled_ahead(name, setting):
    config = load_config("qwen3_8b_to_1p7b", ["rollouts.staleness=1", f"stages.{name}.{setting}"])
    settings = {spec.name: spec.settings for spec in plan(config, ["full"], [0]).specs.values()}
    other = "opd" if name == "teacher_rl" else "teacher_rl"
    assert "staleness" not in settings[name]
    assert settings[other]["staleness"] == 1
