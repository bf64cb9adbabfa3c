"""Every command that the compose file runs, for real: clean environment, secrets, health checks, one stage through."""

import os
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from composition import COMPOSE, Composition, services

pytestmark = pytest.mark.slow

SECRETS = {
    "POSTGRES_PASSWORD": "postgres-word",
    "PREFECT_AUTH": "someone:prefect-word",
    "MLFLOW_ADMIN_PASSWORD": "mlflow-pass-word",
    "MLFLOW_SECRET_KEY": "signs-sessions",
    "RAY_AUTH_TOKEN": "ray-token-of-enough-characters-to-be-taken",
}
STAGE = """
from s2d_core.config.compose import load_config
from s2d_core.launch import launch
from s2d_core.plan import plan
config = load_config({recipe!r})
spec = next(spec for spec in plan(config, ["direct_grpo"], [0]).specs.values() if spec.name == "data")
handle = launch(spec, config.launch)
assert handle.wait(200)
print(handle.result().name)
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composition]:
    """Every service, started in the order of the compose file's depends_on."""
    user = "postgres" if os.getuid() == 0 else None  # PostgreSQL refuses to run as root
    there = shutil.which("initdb") is not None and (
        user is None or subprocess.run(["id", user], stdout=subprocess.DEVNULL).returncode == 0
    )
    made = Composition(tmp_path_factory.mktemp("stack"), SECRETS, postgres=there)
    with tempfile.TemporaryDirectory(prefix="s2d-postgres-") as data:
        try:
            if there:
                start_postgres(made, Path(data), user)
            for started in (("prefect", "mlflow", "ray-head"), ("ray-worker", "prefect-worker")):
                for service in started:
                    made.start(service)
                for service in started:
                    made.wait(service, 400)
            yield made
        finally:
            made.stop()


def start_postgres(made: Composition, data: Path, user: str | None) -> None:
    """What the PostgreSQL image does at its first start: user and databases of the compose file."""
    word = data / "word"
    word.write_text(SECRETS["POSTGRES_PASSWORD"])
    if user:
        shutil.chown(data, user)
        shutil.chown(word, user)
    init = ["initdb", "--username=s2d", f"--pwfile={word}", "--auth=scram-sha-256", str(data / "db")]
    subprocess.run(init, check=True, capture_output=True, user=user, cwd=data)
    options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={data}", "-p", made.ports["5432"]]
    made.start("postgres", [str(shutil.which("postgres")), "-D", str(data / "db"), *options], user)
    made.wait("postgres", 60)
    sql = yaml.safe_load(COMPOSE.read_text())["configs"]["databases"]["content"]
    for command in ("CREATE DATABASE prefect", sql):
        url = f"postgresql://s2d:{SECRETS['POSTGRES_PASSWORD']}@127.0.0.1:{made.ports['5432']}/postgres"
        made.run("postgres", ["psql", url, "--command", command])


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_every_service_becomes_healthy(stack: Composition) -> None:
    assert set(stack.running) == set(services()) - (set() if stack.postgres else {"postgres"})
    assert all(process.poll() is None for process in stack.running.values())


def test_nobody_gets_in_without_the_secrets(stack: Composition) -> None:
    asked = {
        "4200": "/api/admin/version",
        "5000": "/api/2.0/mlflow/experiments/search?max_results=1",
        "8265": "/api/jobs/",
    }
    for port, path in asked.items():
        assert status(f"http://127.0.0.1:{stack.ports[port]}{path}") in (401, 403), path


def test_prefect_and_mlflow_keep_their_data_in_postgresql(stack: Composition) -> None:
    if not stack.postgres:
        pytest.skip("no PostgreSQL programs on this machine (initdb, and a user postgres for root)")
    for database, table in (("prefect", "flow_run"), ("mlflow", "experiments")):
        url = f"postgresql://s2d:{SECRETS['POSTGRES_PASSWORD']}@127.0.0.1:{stack.ports['5432']}/{database}"
        assert stack.run("postgres", ["psql", url, "--tuples-only", "--command", f"SELECT count(*) FROM {table}"])


def test_the_worker_serves_its_pool_and_reaches_mlflow(stack: Composition) -> None:
    assert "process" in stack.run("prefect-worker", ["prefect", "work-pool", "inspect", "s2d"])
    uri = stack.here("http://mlflow:5000")
    code = f"from mlflow import MlflowClient; print(MlflowClient({uri!r}).create_experiment('one'))"
    assert stack.run("prefect-worker", ["python", "-c", code]).strip().isdigit()


def test_a_stage_goes_through_the_recipe_of_the_stack(stack: Composition) -> None:
    code = STAGE.format(recipe=stack.here("/etc/s2d/recipe.yaml"))
    assert stack.run("prefect-worker", ["python", "-c", code]).split()[-1] == "data"
    assert list((stack.folder / "data" / "runs" / "stages").glob("data-*/manifest.json"))
