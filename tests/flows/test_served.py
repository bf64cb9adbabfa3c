"""Runs as a served system has them: executed by a worker's process, their stages on a Ray head that others own.
Cancelled or killed in the middle, each ends in a state that says so; triggered again, it goes on."""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from served import Served, eventually, outside

from deployments.settings import free_port
from tests.ports import answers

pytestmark = pytest.mark.slow

STEPS = 100_000


class Head:
    """A Ray head on loopback; started again it has the same addresses."""

    def __init__(self) -> None:
        self.port, self.dashboard_port, self.agent_port, client = (free_port() for _ in range(4))
        self.command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=3"]
        self.command += [f"--port={self.port}", f"--dashboard-port={self.dashboard_port}", "--include-dashboard=true"]
        self.command += [f"--dashboard-agent-listen-port={self.agent_port}", f"--ray-client-server-port={client}"]
        self.command += ["--node-ip-address=127.0.0.1", "--object-store-memory=104857600", "--disable-usage-stats"]
        # Ray sends a head's jobs to the cluster that was started last with its folder.
        self.command.append(f"--temp-dir={tempfile.mkdtemp(prefix='ray-', dir='/tmp')}")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    def start(self) -> None:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(self.command, env=outside(), **quiet)  # type: ignore[call-overload]
        for port in (self.port, self.dashboard_port, self.agent_port):
            eventually(lambda port=port: answers(port), 240, "the Ray head answers")  # type: ignore[misc]

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def training(self) -> list[psutil.Process]:
        """Processes that train: Ray names a task's by the stage, and a job's has the stage's spec as its argument."""
        found = []
        for process in self.processes():
            try:
                if "pretrain_student" in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def lose(self) -> None:
        """As if its machine were gone."""
        for process in [*self.processes(), psutil.Process(self.process.pid)]:
            if process.is_running():
                process.kill()
        self.process.wait(60)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    head = Head()
    head.start()
    yield head
    head.stop()


def parameters(store: Path, *overrides: str) -> dict[str, Any]:
    """A run whose first training does not end by itself."""
    settings = [f"store={store}", f"stages.pretrain_student.steps={STEPS}", "training.checkpoint_every=20"]
    return {"recipe": "smoke", "arms": ["direct_grpo"], "overrides": [*settings, *overrides]}


def steps(store: Path) -> list[int]:
    files = list(store.glob("stages/pretrain_student-*/metrics.jsonl"))
    return [json.loads(line)["step"] for line in files[0].read_text().splitlines()] if files else []


def trains(store: Path, beyond: int = 20) -> Callable[[], bool]:
    """Has a checkpoint, and has logged a step later than ``beyond``?"""

    def check() -> bool:
        return any(store.glob("stages/pretrain_student-*/checkpoints/step_*")) and max(steps(store), default=0) > beyond

    return check


def test_after_a_cancel_within_15_seconds_and_after_a_lost_head_the_next_run_goes_on(
    served: Served, head: Head, tmp_path: Path
) -> None:
    settings = parameters(tmp_path, f"launch.address={head.address}", "launch.retries=0")
    run = served.trigger(settings)
    served.reaches(run, trains(tmp_path), "training")
    assert head.training()
    served.cancel(run)
    assert eventually(lambda: not head.training(), 60, "the workers are gone") < 15
    assert served.ends(run)[0] == "Cancelled"
    done = max(steps(tmp_path))
    assert done < STEPS and any(tmp_path.glob("stages/pretrain_student-*/checkpoints/step_*"))

    again = served.trigger(settings)
    served.reaches(again, trains(tmp_path, beyond=done), "training goes on")
    counted = steps(tmp_path)
    assert counted == list(range(1, len(counted) + 1))  # not begun anew: every step is there once

    head.lose()
    assert served.ends(again)[0] in ("Failed", "Crashed")  # tests/flows/test_command_line.py: what the next one says

    done = max(steps(tmp_path))
    head.start()
    last = served.trigger(settings)
    served.reaches(last, trains(tmp_path, beyond=done), "training goes on")
    served.process(last).kill()
    name, message = served.ends(last)
    assert name == "Crashed" and "-9" in message
    eventually(lambda: not head.training(), 60, "the workers end with their driver")


def test_a_job_outlives_its_killed_run_and_ends_with_the_cancelled_one_that_took_it_over(
    served: Served, head: Head, tmp_path: Path
) -> None:
    from ray.job_submission import JobStatus, JobSubmissionClient

    settings = parameters(tmp_path, "launch.mode=job", f"launch.address={head.dashboard}")
    jobs = JobSubmissionClient(head.dashboard)

    def job() -> Any:
        (only,) = [each for each in jobs.list_jobs() if (each.submission_id or "").startswith("pretrain_student")]
        return only

    run = served.trigger(settings)
    served.reaches(run, trains(tmp_path), "training")
    served.process(run).kill()
    assert served.ends(run)[0] == "Crashed"
    assert job().status == JobStatus.RUNNING

    again = served.trigger(settings)
    (owner,) = tmp_path.glob("stages/pretrain_student-*/owner")
    eventually(lambda: owner.read_text() == str(again), 240, "the next run takes the job over")
    # A run that cannot stop anything itself: Prefect kills it 30 s later and starts a process for the hook.
    served.process(again).send_signal(signal.SIGSTOP)
    served.cancel(again)
    assert served.ends(again)[0] == "Cancelled"
    eventually(lambda: job().status == JobStatus.STOPPED and not head.training(), 120, "the hook has ended the job")
