"""The flow and the command that prune a store: both say first, and remove when told to."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

from flows.prune import prune

ROOT = Path(__file__).parents[2]


@pytest.fixture
def old_report(tmp_path: Path) -> Path:
    """A report of 40 days ago, in a store at ``tmp_path``."""
    page = tmp_path / "reports" / "smoke-20260101" / "report.html"
    page.parent.mkdir(parents=True)
    page.write_text("a finding")
    os.utime(page, (time.time() - 40 * 86_400,) * 2)
    return page.parent


@pytest.mark.slow
def test_the_flow_publishes_what_it_would_remove_and_removes_it_only_when_told(
    prefect_server: None, old_report: Path, tmp_path: Path
) -> None:
    settings = [f"store={tmp_path}"]
    state = prune(["smoke"], [0], settings, return_state=True)
    assert str(state.message).startswith("1 folders, 0.0 MB, would be removed")
    assert old_report.exists()
    with get_client(sync_client=True) as client:
        of_run = ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id])
        (artifact,) = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=of_run))
    assert artifact.key == "prune" and str(old_report) in str(artifact.data)
    state = prune(["smoke"], [0], settings, dry_run=False, return_state=True)
    assert str(state.message).startswith("1 folders, 0.0 MB, removed")
    assert not old_report.exists()


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.prune", *words], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


def test_the_command_lists_and_removes_with_remove(old_report: Path, tmp_path: Path) -> None:
    words = ["--recipes", "smoke", "--set", f"store={tmp_path}"]
    said = command(*words)
    assert said.returncode == 0 and str(old_report) in said.stdout and old_report.exists()
    done = command(*words, "--remove")
    assert done.returncode == 0 and "1 folders, 0.0 MB, removed" in done.stdout
    assert not old_report.exists()


def test_a_recipe_that_is_not_there_is_one_message(tmp_path: Path) -> None:
    done = command("--recipes", "smock", "--set", f"store={tmp_path}")
    assert done.returncode == 2 and done.stderr.startswith("error: recipe = 'smock'")
