"""Runs as a served system has them: triggered on a Prefect server, executed by a worker's process, stages on a Ray head
that others own. Cancelled or killed in the middle, each ends in a state that says so; triggered again, it goes on."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.settings import get_current_settings
from prefect.states import Cancelling

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
POOL, STEPS = "served", 100_000


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def eventually(condition: Callable[[], Any], seconds: float, what: str) -> float:
    """Wait until ``condition``; returns how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"not within {seconds:g} s: {what}"
        time.sleep(0.2)
    return time.monotonic() - began


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Head:
    """A Ray head on loopback; started again it has the same addresses."""

    def __init__(self) -> None:
        self.port, self.dashboard_port, self.agent_port, client = (free_port() for _ in range(4))
        self.command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=3"]
        self.command += [f"--port={self.port}", f"--dashboard-port={self.dashboard_port}", "--include-dashboard=true"]
        self.command += [f"--dashboard-agent-listen-port={self.agent_port}", f"--ray-client-server-port={client}"]
        self.command += ["--node-ip-address=127.0.0.1", "--object-store-memory=104857600", "--disable-usage-stats"]

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for port in (self.port, self.dashboard_port, self.agent_port):
            eventually(lambda port=port: answers(port), 240, "the Ray head answers")  # type: ignore[misc]

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def training(self) -> list[psutil.Process]:
        """Processes that train; Ray names them by what they do, a job is named by its entry point."""
        named = [(process, " ".join(_quietly(process.cmdline))) for process in self.processes()]
        return [process for process, name in named if "pretrain_student" in name]

    def lose(self) -> None:
        for process in [*self.processes(), psutil.Process(self.process.pid)]:
            _quietly(process.kill)
        self.process.wait(60)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)


def _quietly(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except psutil.NoSuchProcess:
        return ()


@dataclass
class System:
    """The server's client, the head, and the deployment."""

    client: SyncPrefectClient
    head: Head
    deployment: UUID

    def trigger(self, store: Path, *overrides: str) -> UUID:
        settings = [f"store={store}", f"stages.pretrain_student.steps={STEPS}", "training.checkpoint_every=20"]
        parameters = {"recipe": "smoke", "arms": ["direct_grpo"], "overrides": [*settings, *overrides]}
        return self.client.create_flow_run_from_deployment(self.deployment, parameters=parameters).id

    def read(self, run: UUID) -> FlowRun:
        return self.client.read_flow_run(run)

    def ends(self, run: UUID, seconds: float = 120) -> tuple[str, str]:
        """Name and message of the state a run ends in."""
        eventually(lambda: self.read(run).state.is_final(), seconds, "the run ends")  # type: ignore[union-attr]
        state = self.read(run).state
        assert state is not None
        return str(state.name), str(state.message)

    def process(self, run: UUID) -> psutil.Process:
        return psutil.Process(int(str(self.read(run).infrastructure_pid).rpartition(":")[2]))

    def cancel(self, run: UUID) -> None:
        """What the button in the UI does."""
        self.client.set_flow_run_state(run, Cancelling())

    def attached(self) -> str:
        return f"launch.address=127.0.0.1:{self.head.port}"


def steps(store: Path) -> list[int]:
    files = list(store.glob("stages/pretrain_student-*/metrics.jsonl"))
    lines = files[0].read_text().splitlines() if files else []
    return [json.loads(line)["step"] for line in lines]


def is_training(store: Path, beyond: int = 20) -> Callable[[], bool]:
    """Has a checkpoint, and has logged a step later than ``beyond``?"""

    def check() -> bool:
        return any(store.glob("stages/pretrain_student-*/checkpoints/step_*")) and max(steps(store), default=0) > beyond

    return check


@contextmanager
def worker(environment: dict[str, str]) -> Iterator[None]:
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def system(prefect_server: None) -> Iterator[System]:
    from flows.sparse_to_dense import sparse_to_dense

    environment = os.environ | {
        "PREFECT_API_URL": str(get_current_settings().api.url),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
    }
    head = Head()
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        source = sparse_to_dense.from_source(str(ROOT), "flows/sparse_to_dense.py:sparse_to_dense")
        deployment = source.deploy("served", work_pool_name=POOL, print_next_steps=False)
        head.start()
        try:
            with worker(environment):
                yield System(client, head, deployment)
        finally:
            head.stop()


def test_a_cancelled_run_frees_its_workers_within_15_seconds_and_the_next_one_goes_on(
    system: System, tmp_path: Path
) -> None:
    run = system.trigger(tmp_path, system.attached())
    eventually(is_training(tmp_path), 240, "training")
    system.cancel(run)
    assert eventually(lambda: not system.head.training(), 60, "the workers are gone") < 15
    assert system.ends(run)[0] == "Cancelled"
    done = max(steps(tmp_path))
    assert done < STEPS and any(tmp_path.glob("stages/pretrain_student-*/checkpoints/step_*"))

    again = system.trigger(tmp_path, system.attached())
    eventually(is_training(tmp_path, beyond=done), 240, "training goes on")
    counted = steps(tmp_path)
    assert counted == list(range(1, len(counted) + 1))  # not begun anew: every step is there once

    system.process(again).kill()
    assert system.ends(again)[0] == "Crashed"
    eventually(lambda: not system.head.training(), 60, "the workers end with their driver")


def test_a_job_outlives_its_killed_run_and_ends_with_the_cancelled_one_that_took_it_over(
    system: System, tmp_path: Path
) -> None:
    from ray.job_submission import JobStatus, JobSubmissionClient

    address = f"http://127.0.0.1:{system.head.dashboard_port}"
    overrides = ["launch.mode=job", f"launch.address={address}"]
    jobs = JobSubmissionClient(address)

    def training_jobs() -> list[Any]:
        return [job for job in jobs.list_jobs() if (job.submission_id or "").startswith("pretrain_student")]

    run = system.trigger(tmp_path, *overrides)
    eventually(is_training(tmp_path), 240, "training")
    system.process(run).kill()
    assert system.ends(run)[0] == "Crashed"
    (job,) = training_jobs()
    assert job.status == JobStatus.RUNNING

    again = system.trigger(tmp_path, *overrides)
    owner = next(tmp_path.glob("stages/pretrain_student-*/owner"))
    eventually(lambda: owner.read_text() == str(again), 120, "the run takes the job over")
    # A run that can no longer stop anything itself: Prefect kills it, and calls the hook.
    system.process(again).send_signal(signal.SIGSTOP)
    system.cancel(again)
    assert system.ends(again)[0] == "Cancelled"
    (job,) = training_jobs()
    assert job.status == JobStatus.STOPPED
    eventually(lambda: not system.head.training(), 15, "the workers are gone")


def test_a_lost_head_is_named_and_a_run_after_its_return_goes_on(system: System, tmp_path: Path) -> None:
    run = system.trigger(tmp_path, system.attached())
    eventually(is_training(tmp_path), 240, "training")
    system.head.lose()
    name, message = system.ends(run)
    print(name, message)
    assert name in ("Failed", "Crashed")
    without = system.trigger(tmp_path, system.attached())
    name, message = system.ends(without)
    assert name == "Failed" and "no Ray cluster answers there" in message

    done = max(steps(tmp_path))
    system.head.start()
    last = system.trigger(tmp_path, system.attached())
    eventually(is_training(tmp_path, beyond=done), 240, "training goes on")
    system.cancel(last)
    assert system.ends(last)[0] == "Cancelled"
