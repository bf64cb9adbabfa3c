"""The script for continuous integration on real runs: its exit code is how the run ended."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from served import Served, eventually

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deployments" / "ci" / "run_and_expect.sh"
CLAIM = "full > direct_grpo"


def start(served: Served, parameters: dict[str, Any], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(SCRIPT), served.name, json.dumps(parameters)],
        env=served.environment | {"PYTHON": sys.executable} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(served: Served, parameters: dict[str, Any], **environment: str) -> tuple[int, str]:
    process = start(served, parameters, **environment)
    output, _ = process.communicate(timeout=500)
    return process.returncode, output


def smoke(store: Path, *overrides: str, **parameters: Any) -> dict[str, Any]:
    return {"recipe": "smoke", "overrides": [f"store={store}", "launch.mode=inproc", *overrides], **parameters}


def endless(store: Path) -> dict[str, Any]:
    return smoke(store, "stages.pretrain_student.steps=100000", arms=["direct_grpo"])


def latest(served: Served) -> UUID:
    from prefect.client.schemas.sorting import FlowRunSort

    return served.client.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=1)[0].id


def test_a_run_that_finds_what_is_expected_is_0_and_one_that_does_not_is_1_and_says_so(
    served: Served, tmp_path: Path
) -> None:
    code, output = run(served, smoke(tmp_path, expect={CLAIM: "holds"}))
    (contrast,) = json.loads((tmp_path / "latest" / "report.json").read_text())["contrasts"]
    assert code == (0 if contrast["verdict"] == "holds" else 1), output
    assert "URL: http" in output
    other = contrast["verdict"] if code else "does not hold"
    second, output = run(served, smoke(tmp_path, expect={CLAIM: other}))
    assert {code, second} == {0, 1}, output
    assert "COMPLETED:" in output if code else "FAILED:" in output and f"expected {other!r}" in output


def test_a_failed_run_is_1_and_its_message_is_printed(served: Served, tmp_path: Path) -> None:
    code, output = run(served, smoke(tmp_path, "stages.opd.steps=0"))
    assert code == 1 and "FAILED:" in output and "stages.opd.steps = 0" in output


@pytest.mark.parametrize("wrong", [{"seeds": "many"}, {"expect": {CLAIM: "maybe"}}, {"recipee": "smoke"}])
def test_parameters_that_the_form_would_refuse_start_no_run(
    served: Served, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    code, output = run(served, smoke(tmp_path) | wrong)
    assert code == 2 and next(iter(wrong)) in output and "UUID" not in output


def test_a_run_cancelled_by_somebody_else_is_1(served: Served, tmp_path: Path) -> None:
    process = start(served, endless(tmp_path))
    eventually(lambda: list(tmp_path.glob("stages/pretrain_student-*/metrics.jsonl")), 240, "training")
    served.cancel(latest(served))
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 1 and "CANCELLED:" in output


def test_a_run_over_the_time_limit_is_124_and_is_cancelled(served: Served, tmp_path: Path) -> None:
    code, output = run(served, endless(tmp_path), WATCH_TIMEOUT="5")
    assert code == 124 and "not ended within 5 s" in output
    assert served.ends(latest(served))[0] == "Cancelled"


def test_an_interrupted_script_cancels_its_run(served: Served, tmp_path: Path) -> None:
    process = start(served, endless(tmp_path))
    eventually(lambda: list(tmp_path.glob("stages/pretrain_student-*/metrics.jsonl")), 240, "training")
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=240)
    assert process.returncode == 130
    assert served.ends(latest(served))[0] == "Cancelled"
