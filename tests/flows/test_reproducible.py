"""One experiment, run twice from nothing, says the same to the last digit."""

import json
from pathlib import Path
from typing import Any

import pytest

from flows.sparse_to_dense import sparse_to_dense

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

TIMES = ("seconds",)


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in TIMES}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def test_two_runs_of_one_experiment_leave_the_same_report_apart_from_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = []
    for name in ("first", "second"):
        root = tmp_path / name
        root.mkdir()
        monkeypatch.chdir(root)  # each has a store of its own, under the same name
        assert sparse_to_dense("smoke", overrides=["launch.mode=inproc"], return_state=True).is_completed()
        reports.append(json.loads((root / "runs" / "latest" / "report.json").read_text()))
    first, second = (json.dumps(without_times(report)).encode() for report in reports)
    assert first == second
