"""Conditions C1 and C2 as gates before OPD, judged on a finished run."""

import pytest

from s2d_core import gates
from s2d_core.config.compose import load_config
from s2d_core.config.schema import GatesConfig
from s2d_core.errors import ConfigError, GateError
from s2d_core.plan import plan
from s2d_core.run_stage import run_stage
from s2d_core.store import Store

ARMS = ["full", "raw_teacher", "opd_only", "mixed_density", "direct_grpo"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(plan, store) of arms ``full`` and ``raw_teacher``, finished."""
    store = tmp_path_factory.mktemp("store")
    config = load_config("smoke", ["launch.mode=inproc", "data.splits.test=12", "evaluation.k=2", f"store={store}"])
    planned = plan(config, ["full", "raw_teacher"], [0])
    for spec in planned.specs.values():
        run_stage(spec)
    return planned, Store(store)


def opd(planned, arm="full"):
    return next(planned.specs[f] for f in planned.arms[arm][0].stages if gates.is_gated(planned.specs[f]))


def judged(run, arm="full", **thresholds):
    planned, store = run
    config = GatesConfig(**thresholds)
    return {gate.name: gate for gate in gates.judge(config, store, planned.specs, opd(planned, arm))}


def test_opd_and_mixed_stages_are_gated_and_no_other():
    planned = plan(load_config("small_world"), ARMS, [0])
    assert {spec.name for spec in planned.specs.values() if gates.is_gated(spec)} == {"opd", "mixed"}


def test_c2_is_read_where_opd_starts_after_the_warmup_or_cold():
    planned = plan(load_config("small_world"), ["full", "opd_only"], [0])
    for arm, role in (("full", "warm"), ("opd_only", "cold")):
        found = gates.measurements(planned.specs, opd(planned, arm))
        assert found["student"] == planned.arms[arm][0].evaluations[role]
        assert found["teacher"] == planned.arms[arm][0].evaluations["teacher"]
        assert found["raw_teacher"] == planned.arms[arm][0].evaluations["raw_teacher"]


def test_c2_compares_the_measured_distance_with_its_threshold(run):
    planned, store = run
    kl = store.result(planned.specs[planned.arms["full"][0].evaluations["warm"]]).metrics["kl_to_teacher"]
    assert judged(run, c2_max_kl=kl * 1.01)["C2"].passed
    failed = judged(run, c2_max_kl=kl * 0.99)["C2"]
    assert not failed.passed and failed.value == kl


def test_c1_asks_for_the_whole_interval_of_the_gain(run):
    planned, store = run
    evaluations = planned.arms["full"][0].evaluations
    means = [store.result(planned.specs[evaluations[r]]).metrics["avg_at_k"] for r in ("teacher", "raw_teacher")]
    gate = judged(run, c1_min_gain=-100.0)["C1"]
    assert gate.passed and gate.value == pytest.approx(100 * (means[0] - means[1]))
    assert not judged(run, c1_min_gain=100.0)["C1"].passed


def test_a_raw_teacher_is_not_asked_for_c1(run):
    assert judged(run, "raw_teacher").keys() == {"C2"}


def test_a_failed_gate_stops_the_stage_only_where_the_recipe_says_so(run):
    planned, store = run
    stage = opd(planned)
    gates.require(GatesConfig(c2_max_kl=1e-9, on_failure="warn"), store, planned.specs, stage)
    with pytest.raises(GateError, match=r"was not started: .*C2 failed.*gates\.c2_max_kl = 1e-09.*on_failure=warn"):
        gates.require(GatesConfig(c1_min_gain=-100, c2_max_kl=1e-9, on_failure="stop"), store, planned.specs, stage)
    warmup = next(spec for spec in planned.specs.values() if spec.name == "warmup")
    gates.require(GatesConfig(c2_max_kl=1e-9, on_failure="stop"), store, planned.specs, warmup)


def test_a_gate_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match=r"gates\.on_failure = 'halt'.*warn.*stop"):
        load_config("smoke", ["gates.on_failure=halt"])
