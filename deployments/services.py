"""The four services of one machine: how each is started, and how one sees that it answers."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx

from deployments import processes
from deployments.postgres import database
from deployments.settings import Settings, free_port

POOL = "s2d"
REFUSED = ("401", "403")  # somebody is there, who asks for credentials that this shell does not have
BIN = Path(sys.executable).parent
OBJECT_STORE_BYTES = 256 << 20
WORKER_POLL_S = "2"  # Prefect's default, 10 s, is long to wait for a run one has just started by hand


@dataclass(frozen=True)
class Service:
    """``ports``: by the option that changes them. ``ready``: whether it answers. ``fix``: what a person may have to do
    when it does not start, besides reading its log. ``tries``: how often it is started before that is an error."""

    name: str
    command: list[str]
    folder: Path
    ready: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    fix: str = ""
    tries: int = 1

    @property
    def log(self) -> Path:
        return self.folder.parent / f"{self.name}.log"

    @property
    def mark(self) -> str:
        return f"{self.folder.parent}:{self.name}"

    def running(self) -> bool:
        return bool(processes.members(self.mark)) and self.ready()


def services(settings: Settings) -> list[Service]:
    """In the order in which they are needed; the worker last."""
    return [_prefect(settings), _mlflow(settings), _ray(settings), _worker(settings)]


def _prefect(settings: Settings) -> Service:
    environment = {
        "PREFECT_SERVER_UI_API_URL": settings.api,
        "PREFECT_SERVER_DATABASE_TIMEOUT": "60",  # seconds that SQLite waits for its lock; by default 10
    }
    if secret := os.environ.get("PREFECT_API_AUTH_STRING"):
        environment["PREFECT_SERVER_API_AUTH_STRING"] = secret
    if url := database("prefect", "postgresql+asyncpg"):
        environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = url
    return Service(
        name="prefect",
        command=[str(BIN / "prefect"), "server", "start", *_listen(settings, "prefect")],
        folder=settings.data / "prefect",
        environment=environment,
        ports={"--prefect-port": settings.ports["prefect"]},
        ready=lambda: answers(f"{settings.api}/health"),
        fix="a database of another version of Prefect: prefect server database upgrade, with the newer of the two",
    )


def _mlflow(settings: Settings) -> Service:
    folder = settings.data / "mlflow"
    command = [str(BIN / "mlflow"), "server", *_listen(settings, "mlflow"), "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = {
        # In the environment and not an argument: arguments are for all to see, and this may hold a password.
        "MLFLOW_BACKEND_STORE_URI": database("mlflow", "postgresql") or f"sqlite:///{folder / 'mlflow.db'}",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    if password := os.environ.get("MLFLOW_TRACKING_PASSWORD"):
        command += ["--app-name", "basic-auth"]
        environment["MLFLOW_AUTH_ADMIN_USERNAME"] = os.environ.get("MLFLOW_TRACKING_USERNAME", "admin")
        environment["MLFLOW_AUTH_ADMIN_PASSWORD"] = password
        environment["MLFLOW_FLASK_SERVER_SECRET_KEY"] = os.urandom(16).hex()
    if not settings.loopback:
        environment["MLFLOW_SERVER_ALLOWED_HOSTS"] = f"{settings.host},{settings.host}:{settings.ports['mlflow']}"
    return Service(
        name="mlflow",
        command=command,
        folder=folder,
        environment=environment,
        ports={"--mlflow-port": settings.ports["mlflow"]},
        ready=lambda: answers(f"{settings.url('mlflow')}/health"),
        fix="a database of an older version of MLflow: back it up, then mlflow db upgrade URI",
    )


def _ray(settings: Settings) -> Service:
    command = [str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--node-ip-address={settings.host}", f"--port={settings.ports['ray']}"]
    command += ["--include-dashboard=true", f"--dashboard-host={settings.host}"]
    command += [f"--dashboard-port={settings.ports['dashboard']}", f"--object-store-memory={OBJECT_STORE_BYTES}"]
    # Ray's default for these two are fixed ports; a head that does not get its agent's takes no jobs, and says nothing.
    command += [f"--dashboard-agent-listen-port={free_port()}", f"--ray-client-server-port={free_port()}"]
    command += [f"--num-cpus={settings.cpus}"] if settings.cpus else []
    # On loopback Ray takes the machine's own address instead, and listens everywhere, unless this is off.
    environment = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"} if settings.loopback else {}
    return Service(
        name="ray",
        command=command,
        folder=settings.data / "ray",
        environment={**environment, "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300"},
        ports={"--ray-port": settings.ports["ray"], "--dashboard-port": settings.ports["dashboard"]},
        ready=lambda: node_alive(settings.url("dashboard")),
        tries=3,  # it gives up when its parts do not find each other within 30 s, which is short on a busy machine
    )


def _worker(settings: Settings) -> Service:
    return Service(
        name="worker",
        command=[str(BIN / "prefect"), "worker", "start", "--pool", POOL, "--type", "process"],
        folder=settings.data / "worker",
        environment={"S2D_SITE": str(settings.site_file), "PREFECT_WORKER_QUERY_SECONDS": WORKER_POLL_S},
        ready=lambda: worker_online(settings.api),
    )


def _listen(settings: Settings, service: str) -> list[str]:
    return ["--host", settings.host, "--port", str(settings.ports[service])]


@cache
def _client() -> httpx.Client:
    """One for all questions: making one is expensive. Proxies are not asked for addresses of this machine, and a busy
    service is given time: one that does not answer is ended and started again."""
    return httpx.Client(timeout=30.0, trust_env=False)


def answers(url: str) -> bool:
    """Whether the service is up; one that asks for credentials is."""
    return _says(url) is not None


def node_alive(dashboard: str) -> bool:
    """Whether the head's own node has joined: its dashboard answers long before it does."""
    token = os.environ.get("RAY_AUTH_TOKEN")
    said = _says(f"{dashboard}/api/v0/nodes", headers={"Authorization": f"Bearer {token}"} if token else {})
    return said is not None and (said in REFUSED or '"ALIVE"' in said)


def worker_online(api: str) -> bool:
    """Whether a worker of the pool has been heard of lately."""
    user, _, password = os.environ.get("PREFECT_API_AUTH_STRING", "").partition(":")
    said = _says(f"{api}/work_pools/{POOL}/workers/filter", "POST", json={}, auth=(user, password))
    return said is not None and (said in REFUSED or '"ONLINE"' in said)


def _says(url: str, method: str = "GET", **request: Any) -> str | None:
    """What is answered; None: nothing of use. A refusal is an answer too, one of ``REFUSED``."""
    try:
        answer = _client().request(method, url, **request)
    except httpx.HTTPError:
        return None
    if str(answer.status_code) in REFUSED:
        return str(answer.status_code)
    return answer.text if answer.is_success else None
