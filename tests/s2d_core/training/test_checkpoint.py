"""Checkpoints are written beside the loop; what carries the final name is whole, whatever dies and when."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_geometries import model

from s2d_core.config.stages import OptimiserConfig
from s2d_core.training.checkpoint import Saver, checkpoints, restore
from s2d_core.training.optimiser import make_optimiser, update
from s2d_core.training.policy import Policy

CONFIG = OptimiserConfig(lr=0.1)


def made():
    policy = Policy(model("qwen3"))
    return policy, make_optimiser(policy.parameters(), CONFIG)


def step(policy, optimiser) -> None:
    for parameter in policy.parameters():
        parameter.grad = torch.ones_like(parameter)
    update(optimiser, CONFIG, lr=0.1)


def test_what_is_saved_is_the_state_at_the_call_however_it_changes_then(tmp_path):
    policy, optimiser = made()
    step(policy, optimiser)
    before = [parameter.detach().clone() for parameter in policy.parameters()]
    saver = Saver(tmp_path, keep=2)
    assert saver.save(1, policy, optimiser) is None
    step(policy, optimiser)
    assert saver.wait() == tmp_path / "step_000001"
    step(policy, optimiser)
    assert restore(tmp_path, policy, optimiser) == 1
    for parameter, then in zip(policy.parameters(), before, strict=True):
        assert torch.equal(parameter, then)
    assert {float(state["step"]) for state in optimiser.state.values()} == {1.0}


def test_only_the_newest_are_kept_and_each_save_returns_the_one_before(tmp_path):
    policy, optimiser = made()
    saver = Saver(tmp_path, keep=2)
    returned = [saver.save(number, policy, optimiser) for number in (1, 2, 3)]
    assert returned == [None, tmp_path / "step_000001", tmp_path / "step_000002"]
    saver.close()
    assert [path.name for path in checkpoints(tmp_path)] == ["step_000002", "step_000003"]
    assert len(list(tmp_path.iterdir())) == 2


DIES = """
import os, sys
from pathlib import Path
from test_checkpoint import Saver, made, step
from s2d_core.training import checkpoint

policy, optimiser = made()
saver = Saver(Path(sys.argv[1]), keep=2)
saver.save(1, policy, optimiser)
saver.wait()
checkpoint.write_json = lambda *_: os._exit(9)  # every byte of the state is written, the name not yet given
step(policy, optimiser)
saver.save(2, policy, optimiser)
saver.wait()
"""


@pytest.mark.slow
def test_killed_in_the_middle_of_a_save_the_one_before_is_whole(tmp_path):
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{here}:{here.parents[2]}"}
    died = subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], env=environment, capture_output=True, text=True)
    assert died.returncode == 9, died.stderr
    assert [path.name for path in checkpoints(tmp_path)] == ["step_000001"]
    assert (tmp_path / ".step_000002.partial").exists()
    policy, optimiser = made()
    start = [parameter.detach().clone() for parameter in policy.parameters()]
    step(policy, optimiser)
    assert restore(tmp_path, policy, optimiser) == 1
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), start, strict=True))
    saver = Saver(tmp_path, keep=2)
    saver.save(2, policy, optimiser)  # over what the dead one left
    assert saver.wait() == tmp_path / "step_000002"
