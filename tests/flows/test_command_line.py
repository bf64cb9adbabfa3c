"""``python -m flows`` as a user has it: one process, its exit code, and what it prints."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]


def command(root: Path, *overrides: str, recipe: str = "smoke", arms: tuple[str, ...] = ()) -> list[str]:
    chosen = ["--arms", *arms] if arms else []
    return [sys.executable, "-m", "flows", "--recipe", recipe, *chosen, "--set", f"store={root}", *overrides]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """No server set up, and a Prefect database of the tests' own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return kept | {"PREFECT_HOME": str(tmp_path_factory.mktemp("prefect-home"))}


def run(words: list[str], environment: dict[str, str], timeout: float = 550) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path, environment: dict[str, str]) -> None:
    done = run([*command(tmp_path / "store"), "--dry-run"], environment)
    assert done.returncode == 0
    assert "13 distinct stages, 0 cached, 13 to run" in done.stdout
    assert "never run" in done.stdout and "labels" in done.stdout and "tokens" in done.stdout
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["stages.opd.stepps=3"], ["stages.opd.stepps", "Did you mean 'steps'"]),
        (["stages.opd.steps=0"], ["stages.opd.steps", "0"]),
        (["label_budget=5000"], ["label_budget = 5000"]),
        (["data.splits.test=many"], ["data.splits.test", "many"]),
    ],
)
def test_bad_configuration_gives_one_message_and_no_traceback(
    tmp_path: Path, environment: dict[str, str], overrides: list[str], named: list[str]
) -> None:
    done = run(command(tmp_path / "store", *overrides), environment)
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr.count("error:") == 1
    assert all(words in done.stderr for words in named), done.stderr
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_one_message_and_nothing_is_trained(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    done = run(command(tmp_path / "store", "launch.address=127.0.0.1:1"), environment)
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stdout + done.stderr
    assert "launch.address = '127.0.0.1:1'" in done.stderr
    assert not list((tmp_path / "store").glob("stages/*/manifest.json"))


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_no_process_behind_and_goes_on_where_it_was(
    tmp_path: Path, environment: dict[str, str], sign: signal.Signals
) -> None:
    root = tmp_path / "store"
    words = command(root, "stages.pretrain_student.steps=2000", "training.checkpoint_every=20", arms=("direct_grpo",))
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_heed_interrupts,
    )
    _wait(lambda: any(root.glob("stages/pretrain_student-*/checkpoints/step_*")), 240)
    children = psutil.Process(process.pid).children(recursive=True)
    assert any("ray" in child.name() for child in children)
    process.send_signal(sign)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors == "stopped; the same command goes on from the last checkpoints\n"
    _wait(lambda: not [child for child in children if child.is_running()], 120)
    plan = run([*words, "--dry-run"], environment)
    assert "unfinished" in plan.stdout


@pytest.mark.slow
def test_the_whole_experiment_on_a_local_cluster_prints_the_table_and_the_report(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    root = tmp_path / "store"
    done = run(command(root), environment, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "full" in done.stdout and "direct_grpo" in done.stdout
    assert f"report: {root / 'latest' / 'report.html'}" in done.stdout
    report = json.loads((root / "latest" / "report.json").read_text())
    assert [len(runs) for runs in report["arms"].values()] == [1, 1]
    began = time.monotonic()
    again = run(command(root), environment)
    assert again.returncode == 0
    assert time.monotonic() - began < 90  # 12 s on an idle machine; other tests run beside this one
    assert again.stdout.count(": cached") == 13


def _heed_interrupts() -> None:
    """Tests started in the background inherit an ignored SIGINT, and would pass it on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _wait(condition, seconds: float) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)
