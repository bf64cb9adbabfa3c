"""The services of one machine, really started, each asking for credentials. One stack for the module, in this order:
started, used, crashed, started again, stopped."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from serving import PATIENCE, command, free_ports

from deployments import processes
from deployments.services import Service, services
from deployments.settings import Settings, free_port
from deployments.stack import recorded
from s2d_core.config.compose import load_config
from s2d_core.plan import plan

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SECRETS = {
    "PREFECT_API_AUTH_STRING": "operator:secret-of-prefect",
    "MLFLOW_TRACKING_USERNAME": "operator",
    "MLFLOW_TRACKING_PASSWORD": "secret-of-mlflow",
    "RAY_AUTH_TOKEN": "secret-of-ray-" + "0" * 32,
}
SMOKE = "sparse_to_dense/smoke"
ONE_ARM = {"recipe": "smoke", "arms": ["direct_grpo"]}


@pytest.fixture(scope="module")
def options() -> list[str]:
    return free_ports()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, options: list[str]) -> Iterator[Settings]:
    data = tmp_path_factory.mktemp("serve")
    try:
        done = command(data, "start", *options, **SECRETS)
        assert done.returncode == 0, done.stderr
        yield recorded(data)
    finally:
        command(data, "stop")


@pytest.fixture
def client(stack: Settings) -> Iterator[SyncPrefectClient]:
    known = {PREFECT_API_URL: stack.api, PREFECT_API_AUTH_STRING: SECRETS["PREFECT_API_AUTH_STRING"]}
    with temporary_settings(known), get_client(sync_client=True) as opened:
        yield opened


def service(settings: Settings, name: str) -> Service:
    return next(each for each in services(settings) if each.name == name)


def pids(settings: Settings, name: str) -> set[int]:
    return {process.pid for process in processes.members(service(settings, name).mark)}


def trigger(client: SyncPrefectClient, deployment: str, **parameters: Any) -> FlowRun:
    return client.create_flow_run_from_deployment(client.read_deployment_by_name(deployment).id, parameters=parameters)


def wait(what: str, found: Any, seconds: float = PATIENCE) -> Any:
    """What ``found()`` returns, once it is true."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.5)
    return value


def ended(client: SyncPrefectClient, run: FlowRun) -> FlowRun:
    def look() -> FlowRun | None:
        seen = client.read_flow_run(run.id)
        return seen if seen.state and seen.state.is_final() else None

    return wait(f"end of {run.name}", look)  # type: ignore[no-any-return]


def scheduled(client: SyncPrefectClient, deployment: str) -> list[FlowRun]:
    """Runs that a schedule of the deployment has made."""
    chosen = DeploymentFilterId(any_=[client.read_deployment_by_name(deployment).id])
    runs = client.read_flow_runs(deployment_filter=DeploymentFilter(id=chosen))
    return [run for run in runs if run.auto_scheduled]


@contextmanager
def schedule(client: SyncPrefectClient, deployment: str, when: Any, **parameters: Any) -> Iterator[None]:
    """A schedule that is on for a while. Deleted, it would take the runs with it that it has missed."""
    chosen = client.read_deployment_by_name(deployment).id
    wanted = DeploymentScheduleCreate(schedule=when, parameters=parameters, active=True)
    login = httpx.BasicAuth(*SECRETS["PREFECT_API_AUTH_STRING"].split(":"))
    content = [wanted.model_dump(mode="json", exclude_unset=True)]
    made = httpx.post(f"{client.api_url}deployments/{chosen}/schedules", json=content, auth=login)
    made.raise_for_status()
    try:
        yield
    finally:
        client.update_deployment_schedule(chosen, made.json()[0]["id"], active=False)


def test_every_port_is_open_on_loopback_only(stack: Settings) -> None:
    listening = {
        (each.name, connection.laddr.ip)
        for each in services(stack)
        for process in processes.members(each.mark)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {name for name, _ in listening} >= {"prefect", "mlflow", "ray"}
    assert {address for _, address in listening} <= {"127.0.0.1", "::1"}, listening


def test_each_service_refuses_whoever_has_no_credentials(stack: Settings) -> None:
    assert httpx.post(f"{stack.api}/deployments/filter", json={}).status_code == 401
    assert httpx.get(f"{stack.url('mlflow')}/api/2.0/mlflow/experiments/search?max_results=1").status_code == 401
    assert httpx.get(f"{stack.url('dashboard')}/api/jobs/").status_code in (401, 403)


def test_registering_without_valid_credentials_says_so(stack: Settings) -> None:
    environment = {**os.environ, "PREFECT_API_URL": stack.api, "PREFECT_API_AUTH_STRING": "operator:expired"}
    words = [sys.executable, "-m", "deployments.register"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert "refused (401); set PREFECT_API_AUTH_STRING" in done.stderr
    assert "Traceback" not in done.stderr


def test_two_runs_together_and_a_schedule_due_in_a_minute_all_finish(
    stack: Settings, client: SyncPrefectClient
) -> None:
    due = datetime.now(UTC) + timedelta(minutes=1)
    if due.second > 50:
        due += timedelta(minutes=1)
    when = CronSchedule(cron=f"{due.minute} {due.hour} * * *", timezone="UTC")
    with schedule(client, SMOKE, when, **ONE_ARM):
        runs = [trigger(client, SMOKE, **ONE_ARM, seeds=[seed]) for seed in (0, 1)]
        for run in runs:
            seen = ended(client, run)
            assert seen.state and seen.state.is_completed(), seen.state
        wait("the schedule", lambda: [run for run in scheduled(client, SMOKE) if run.expected_start_time <= due])
        (fired,) = [run for run in scheduled(client, SMOKE) if run.expected_start_time <= due]
        seen = ended(client, fired)
    assert seen.state and seen.state.is_completed(), seen.state
    planned = {spec.id for spec in plan(load_config("smoke"), ["direct_grpo"], [0, 1]).specs.values()}
    assert {path.parent.name for path in stack.data.glob("store/stages/*/manifest.json")} == planned
    login = (SECRETS["MLFLOW_TRACKING_USERNAME"], SECRETS["MLFLOW_TRACKING_PASSWORD"])
    search = {"experiment_ids": ["1"], "filter": "attributes.status = 'FINISHED'", "max_results": 100}
    found = httpx.post(f"{stack.url('mlflow')}/api/2.0/mlflow/runs/search", json=search, auth=login).json()["runs"]
    assert len(found) == 3 + len(planned)  # three experiments, and every stage once


def test_a_deployment_of_other_code_says_to_register_again(client: SyncPrefectClient) -> None:
    current = client.read_deployment_by_name(SMOKE)
    steps: Any = current.pull_steps
    name, inputs = next(iter(steps[0].items()))
    client.create_deployment(
        flow_id=current.flow_id,
        name="old",
        entrypoint=current.entrypoint,
        path=".",
        work_pool_name="s2d",
        pull_steps=[{name: inputs | {"registered": "0.0.1+00000000"}}],
    )
    seen = ended(client, trigger(client, "sparse_to_dense/old"))
    assert seen.state and seen.state.is_failed()
    assert "registered by version 0.0.1+00000000" in str(seen.state.message)
    assert "make deploy" in str(seen.state.message)


def test_after_a_crash_start_repairs_registers_the_same_and_makes_up_for_missed_runs_with_one(
    stack: Settings, client: SyncPrefectClient, options: list[str]
) -> None:
    before = {each.name: each.id for each in client.read_deployments()}
    server = pids(stack, "prefect")
    for process in processes.members(service(stack, "worker").mark):
        process.kill()
    down = command(stack.data, "status", **SECRETS)
    assert down.returncode == 1
    assert "worker   DOWN" in down.stdout and "make serve" in down.stdout
    every = IntervalSchedule(interval=timedelta(seconds=10), anchor_date=datetime.now(UTC))
    with schedule(client, "sparse_to_dense/small-world", every, recipe="smoke", dry_run=True):
        wait("missed runs", lambda: len(missed(client)) >= 3)
    late = {run.id for run in missed(client)}
    done = command(stack.data, "start", *options, **SECRETS)
    assert done.returncode == 0, done.stderr
    assert pids(stack, "prefect") == server
    after = client.read_deployments()
    assert {each.name: each.id for each in after} == before
    schedules = {each.name: [one.slug for one in each.schedules] for each in after if each.schedules}
    assert schedules == {"small-world": ["nightly"], "small-world-ablations": ["weekly"]}
    ends = [ended(client, run).state for run in missed(client) if run.id in late]
    assert sorted(state.type.value for state in ends if state) == ["CANCELLED"] * (len(late) - 1) + ["COMPLETED"]
    assert all("a newer run" in str(state.message) for state in ends if state and state.is_cancelled())


def missed(client: SyncPrefectClient) -> list[FlowRun]:
    now = datetime.now(UTC)
    runs = scheduled(client, "sparse_to_dense/small-world")
    return [run for run in runs if run.expected_start_time and run.expected_start_time <= now]


def test_a_running_stack_is_not_started_on_other_ports(stack: Settings) -> None:
    done = command(stack.data, "start", "--prefect-port", str(free_port()), **SECRETS)
    assert done.returncode == 1
    assert "runs already" in done.stderr and "stop" in done.stderr


def test_no_secret_is_written_anywhere(stack: Settings) -> None:
    secrets = [value.rpartition(":")[2].encode() for name, value in SECRETS.items() if "USERNAME" not in name]
    files = [path for path in stack.data.rglob("*") if path.is_file()]
    assert len(files) > 50
    wrong = [path for path in files for secret in secrets if secret in path.read_bytes()]
    assert not wrong


def test_stop_ends_what_start_started_and_keeps_the_data(stack: Settings) -> None:
    done = command(stack.data, "stop")
    assert done.stdout.strip() == "stopped: worker, ray, mlflow, prefect"
    assert not any(processes.members(each.mark) for each in services(stack))
    assert (stack.data / "prefect" / "prefect.db").exists()
    assert "nothing was running" in command(stack.data, "stop").stdout
