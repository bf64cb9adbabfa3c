"""What is refused before anything is started."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments import stack
from deployments.postgres import database
from deployments.settings import PORTS, SECRETS, Settings, free_port
from s2d_core.errors import ConfigError, ResourceError


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SECRETS, "S2D_POSTGRES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def busy() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def test_a_taken_port_is_named_with_its_option_and_nothing_is_started(tmp_path: Path, busy: int) -> None:
    ports = {name: free_port() for name in PORTS} | {"mlflow": busy}
    with pytest.raises(ResourceError, match=rf"--mlflow-port {busy}: taken"):
        stack.start(Settings(tmp_path / "data", "127.0.0.1", ports))
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["stack.lock"]


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ("10.1.2.3", "set PREFECT_API_AUTH_STRING, MLFLOW_TRACKING_PASSWORD, RAY_AUTH_TOKEN"),
        ("0.0.0.0", "the one address"),
        ("example", "not an IP address"),
    ],
)
def test_an_address_open_to_others_needs_credentials(tmp_path: Path, host: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Settings(tmp_path, host, PORTS).check()


def test_with_credentials_it_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "something")
    Settings(tmp_path, "10.1.2.3", PORTS).check()


def test_prefect_and_mlflow_get_a_database_each_of_one_postgres(monkeypatch: pytest.MonkeyPatch) -> None:
    assert database("prefect", "postgresql+asyncpg") is None
    monkeypatch.setenv("S2D_POSTGRES", "postgresql://me:hidden@db:5433")
    assert database("prefect", "postgresql+asyncpg") == "postgresql+asyncpg://me:hidden@db:5433/s2d_prefect"
    assert database("mlflow", "postgresql") == "postgresql://me:hidden@db:5433/s2d_mlflow"


@pytest.mark.parametrize("url", ["mysql://me:hidden@db", "postgresql://me:hidden@db/mine", "hidden"])
def test_a_postgres_setting_that_cannot_be_used_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("S2D_POSTGRES", url)
    with pytest.raises(ConfigError, match="postgresql://user:password@host:port") as refused:
        database("prefect", "postgresql+asyncpg")
    assert "hidden" not in str(refused.value)
