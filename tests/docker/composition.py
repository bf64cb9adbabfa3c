"""The services of docker/compose.yaml outside containers: the same commands, environment and health checks, with free
loopback ports for the published ones and folders of the test's own for the volumes."""

import re
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker" / "compose.yaml"
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
DOCKERFILE = ROOT / "docker" / "Dockerfile"
RAY_NODE = "127.0.0.2"  # loopback too; what is called 127.0.0.1 Ray takes for the machine's own address
PORTS = ("4200", "5000", "5432", "6379", "8080", "8265", "10001", "52365", "52366")


def services(path: Path = COMPOSE) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text())["services"]
    return found


def image_environment() -> dict[str, str]:
    """Every ENV of the stages that the CPU image is made of."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM|\Z)", text, re.M | re.S))
    body = "".join(stages[name] for name in ("system", "service", "cpu"))
    pairs = [pair for line in re.findall(r"^ENV (.*)$", body, re.M) for pair in shlex.split(line)]
    return dict(pair.split("=", 1) for pair in pairs)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@dataclass
class Composition:
    """folder: holds /data, /etc/s2d and the home directory. secrets: what docker/.env would. postgres: whether there is
    one; without, what it would hold is in SQLite files."""

    folder: Path
    secrets: dict[str, str]
    postgres: bool = True
    ports: dict[str, str] = field(default_factory=lambda: {port: free_port() for port in PORTS})
    # Short: paths of sockets have a limit.
    ray: str = field(default_factory=lambda: tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.folder / "home").mkdir()
        (self.folder / "data" / "mlflow").mkdir(parents=True)
        (self.folder / "etc").mkdir()
        for name in ("mlflow-auth.ini", "recipe.yaml"):
            (self.folder / "etc" / name).write_text(self.here((ROOT / "docker" / name).read_text()))

    def here(self, text: str) -> str:
        """``text`` of the compose file as it must read on this machine."""
        text = re.sub(r"\$\{(\w+)(?::\?[^}]*)?\}", lambda found: self.secrets[found[1]], text)
        text = text.replace("ray-head:6379", f"{RAY_NODE}:6379")
        text = re.sub(rf"\b(?:{'|'.join(services())}):(?=\d)", "127.0.0.1:", text).replace("0.0.0.0", "127.0.0.1")
        text = re.sub(rf"\b(?:{'|'.join(PORTS)})\b", lambda found: self.ports[found[0]], text)
        for there, folder in (("/data", "data"), ("/etc/s2d", "etc")):
            text = text.replace(there, str(self.folder / folder))
        return text

    def environment(self, service: str) -> dict[str, str]:
        """The image's and the service's, and nothing of this process's."""
        image = {
            name: value.replace("/opt/venv", sys.prefix).replace("/opt/s2d", str(ROOT)).replace("$PATH", SYSTEM_PATH)
            for name, value in image_environment().items()
        }
        own = {name: self.here(value) for name, value in services()[service].get("environment", {}).items()}
        if not self.postgres:
            own = {name: self._sqlite(value) for name, value in own.items()}
        return {"HOME": str(self.folder / "home"), "LANG": "C.UTF-8", **image, **own}

    def command(self, service: str) -> list[str]:
        words = [self.here(word) for word in services()[service]["command"]]
        if words[0] != "ray":
            return words
        own = [f"--temp-dir={self.ray}"] if "--head" in words else []  # jobs go to the cluster last started with it
        return [*words, f"--node-ip-address={RAY_NODE}", *own]

    def start(self, service: str, command: list[str] | None = None, user: str | None = None) -> None:
        words = self._through_env(service, command or self.command(service))
        with (self.folder / f"{service}.log").open("wb") as log:
            self.running[service] = subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=log, user=user)

    def wait(self, service: str, seconds: float) -> None:
        """Until the service's health check succeeds, as compose would wait."""
        deadline = time.monotonic() + seconds
        check = [self.here(word) for word in services()[service]["healthcheck"]["test"][1:]]
        while subprocess.run(self._through_env(service, check), capture_output=True).returncode:
            log = (self.folder / f"{service}.log").read_text()[-3000:]
            assert self.running[service].poll() is None, f"{service} ended: {log}"
            assert time.monotonic() < deadline, f"{service} is not healthy: {log}"
            time.sleep(0.5)

    def run(self, service: str, command: list[str], seconds: float = 400.0) -> str:
        """Output of one more command where ``service`` runs, as with ``docker compose exec``."""
        words = self._through_env(service, command)
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def stop(self) -> None:
        for process in reversed(self.running.values()):
            process.terminate()
        for process in self.running.values():
            process.wait(60)

    def _sqlite(self, value: str) -> str:
        for scheme, instead in (("postgresql+asyncpg", "sqlite+aiosqlite"), ("postgresql+psycopg2", "sqlite")):
            value = re.sub(rf"^{re.escape(scheme)}://.*/(\w+)$", rf"{instead}:///{self.folder}/data/\1.db", value)
        return value

    def _through_env(self, service: str, command: list[str]) -> list[str]:
        return ["env", "-i", *(f"{name}={value}" for name, value in self.environment(service).items()), *command]
