"""Prefect and MLflow on PostgreSQL, by one setting."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from serving import command, free_ports

from deployments import processes
from deployments.postgres import NAMES
from deployments.services import services
from deployments.settings import free_port
from deployments.stack import recorded, stop

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not shutil.which("initdb"), reason="needs PostgreSQL's initdb and postgres"),
]
PASSWORD = "secret-of-postgres"


@pytest.fixture
def postgres() -> Iterator[str]:
    """A server of the test's own, which refuses to run as root."""
    user = {"user": "postgres"} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        (folder / "password").write_text(PASSWORD)
        for path in (folder, folder / "password"):
            shutil.chown(path, **user) if user else None  # type: ignore[call-overload]
        make = ["initdb", "-D", str(folder / "data"), "-U", "s2d", "-A", "scram-sha-256"]
        subprocess.run([*make, f"--pwfile={folder / 'password'}"], check=True, capture_output=True, cwd=name, **user)
        serve = [
            "postgres",
            "-D",
            str(folder / "data"),
            "-p",
            str(port),
            "-k",
            name,
            "-c",
            "listen_addresses=127.0.0.1",
        ]
        server = subprocess.Popen(serve, cwd=name, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **user)
        url = f"postgresql://s2d:{PASSWORD}@127.0.0.1:{port}"
        try:
            deadline = time.monotonic() + 300
            while not accepts(url):
                assert server.poll() is None and time.monotonic() < deadline
                time.sleep(0.2)
            yield url
        finally:
            server.terminate()
            server.wait(120)


def accepts(url: str) -> bool:
    try:
        psycopg2.connect(f"{url}/postgres").close()
    except psycopg2.OperationalError:
        return False
    return True


def count(url: str, database: str, table: str) -> int:
    connection = psycopg2.connect(f"{url}/{database}")
    with connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {table}")
        (found,) = cursor.fetchone()
    connection.close()
    return int(found)


def test_the_records_are_in_postgres_and_its_password_in_no_argument(tmp_path: Path, postgres: str) -> None:
    try:
        done = command(tmp_path, "start", *free_ports(), S2D_POSTGRES=postgres)
        assert done.returncode == 0, done.stderr
        assert count(postgres, NAMES["prefect"], "deployment") >= 5
        assert count(postgres, NAMES["mlflow"], "experiments") == 1
        arguments = [
            process.cmdline() for each in services(recorded(tmp_path)) for process in processes.members(each.mark)
        ]
        assert arguments and not any(PASSWORD in word for words in arguments for word in words)
        assert not list(tmp_path.rglob("*.db"))
    finally:
        stop(tmp_path)


def test_a_server_that_refuses_is_named_without_the_password(tmp_path: Path) -> None:
    port = free_port()
    done = command(tmp_path, "start", *free_ports(), S2D_POSTGRES=f"postgresql://s2d:{PASSWORD}@127.0.0.1:{port}")
    assert done.returncode == 1
    assert "S2D_POSTGRES: PostgreSQL at 127.0.0.1 refuses" in done.stderr
    assert PASSWORD not in done.stderr and "Traceback" not in done.stderr
