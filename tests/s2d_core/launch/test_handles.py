"""Launching in process: the handle's promises, with real stages of the smoke recipe."""

import pytest

from s2d_core.config.schema import Config
from s2d_core.errors import CheckpointError
from s2d_core.launch import launch
from s2d_core.plan import plan
from s2d_core.spec import StageSpec
from s2d_core.store import Store


def specs(config: Config) -> dict[str, StageSpec]:
    return {spec.name: spec for spec in plan(config, ["direct_grpo"], [0]).specs.values()}


def test_a_launched_stage_ends_with_the_result_that_its_directory_holds(smoke: Config) -> None:
    spec = specs(smoke)["data"]
    handle = launch(spec, smoke.launch)
    assert handle.wait(240.0)
    stored = Store(smoke.store).result(spec)
    assert stored is not None
    assert handle.result() == stored.model_copy(update={"sizes": {}})  # listed when the result is published


def test_launching_returns_before_the_stage_is_done(smoke: Config) -> None:
    handle = launch(specs(smoke)["pretrain_student"], smoke.launch)
    assert not handle.wait(0.0)
    assert handle.wait(240.0)


def test_the_error_that_ended_a_stage_is_raised_by_result(smoke: Config) -> None:
    orphan = specs(smoke)["student_rl"]  # its parents were never run
    handle = launch(orphan, smoke.launch)
    assert handle.wait(240.0)
    with pytest.raises(CheckpointError, match=orphan.inputs["policy"]):
        handle.result()
    assert Store(smoke.store).result(orphan) is None


def test_a_cancelled_stage_stops_after_the_step_it_is_in(smoke: Config) -> None:
    long = smoke.model_copy(
        update={"stages": smoke.stages.model_copy(update={"pretrain_student": corpus(smoke, steps=100_000)})}
    )
    spec = specs(long)["pretrain_student"]
    handle = launch(spec, long.launch)
    assert not handle.wait(3.0)
    handle.cancel()
    assert handle.wait(240.0)
    with pytest.raises(Exception, match="cancelled"):
        handle.result()


def corpus(config: Config, steps: int):  # type: ignore[no-untyped-def]
    stage = config.stages.pretrain_student
    assert stage is not None
    return stage.model_copy(update={"steps": steps, "sequences_per_step": 2})
