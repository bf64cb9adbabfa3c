"""Where the services of one machine listen, where they keep their data, and whom they let in.

Secrets come from the environment only, under the names that the services' own clients read:

    PREFECT_API_AUTH_STRING     user:password        Prefect's server asks for it
    MLFLOW_TRACKING_USERNAME,
    MLFLOW_TRACKING_PASSWORD    of an administrator  MLflow's server asks for them
    RAY_AUTH_TOKEN              32 characters or more  Ray's head asks for it
    S2D_POSTGRES                postgresql://user:password@host:port  keeps Prefect's and MLflow's records
"""

import errno
import ipaddress
import os
import socket
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from s2d_core.errors import ConfigError

SECRETS = ("PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_PASSWORD", "RAY_AUTH_TOKEN")
PORTS = {"prefect": 4200, "mlflow": 5000, "ray": 6379, "dashboard": 8265}


@dataclass(frozen=True)
class Settings:
    """``ports``: of the services in ``PORTS``. ``cpus``: that Ray hands out; None: all there are."""

    data: Path
    host: str
    ports: dict[str, int]
    cpus: int | None = None

    def url(self, service: str) -> str:
        return f"http://{self.host}:{self.ports[service]}"

    @property
    def api(self) -> str:
        return f"{self.url('prefect')}/api"

    @property
    def ray(self) -> str:
        return f"{self.host}:{self.ports['ray']}"

    @property
    def site_file(self) -> Path:
        return self.data / "site.yaml"

    @property
    def loopback(self) -> bool:
        return ipaddress.ip_address(self.host).is_loopback

    @cached_property
    def environment(self) -> dict[str, str]:
        """What the services and flow runs have in common with anybody who talks to them."""
        return {
            **os.environ,
            "PREFECT_API_URL": self.api,
            "PREFECT_HOME": str(self.data / "prefect"),
            "MLFLOW_TRACKING_URI": self.url("mlflow"),
            "RAY_AUTH_MODE": "token" if os.environ.get("RAY_AUTH_TOKEN") else "disabled",
        }

    def site(self) -> str:
        """The site file: what runs on this machine use unless they are told otherwise."""
        return yaml.safe_dump(
            {
                "store": str(self.data / "store"),
                "launch": {"mode": "ray", "address": self.ray},
                "tracking": {"uri": self.url("mlflow")},
            },
            sort_keys=False,
        )

    def check(self) -> None:
        """Raises ConfigError for an address that cannot be listened on, or that is open to others without secrets."""
        try:
            wildcard = ipaddress.ip_address(self.host).is_unspecified
        except ValueError as error:
            raise ConfigError(f"--host {self.host}: not an IP address of this machine") from error
        if wildcard:
            raise ConfigError(f"--host {self.host}: give the one address that others reach this machine at")
        if missing := [name for name in SECRETS if not os.environ.get(name)] if not self.loopback else []:
            raise ConfigError(
                f"--host {self.host}: others could run code on this machine; set {', '.join(missing)} in the "
                "environment first (docs/run-on-one-machine.md), or leave out --host"
            )


def free_port() -> int:
    """A port of the loopback device that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def taken(host: str, port: int) -> bool:
    """Whether ``port`` cannot be listened on. Raises ConfigError when ``host`` is not this machine's."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise ConfigError(f"--host {host}: not an address of this machine") from error
            return True
    return False
