"""The environment tests run in, and the real services they share: one Prefect server a session, started on demand."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ.pop("PREFECT_API_URL", None)
os.environ.pop("S2D_SITE", None)

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from hypothesis import settings

import tasks  # noqa: F401  # telemetry off, before Prefect, Ray or MLflow is imported
from deployments.settings import free_port
from s2d_core.config.compose import load_config
from s2d_core.config.schema import Config
from tests.ports import answers

# Examples differ in cost by far more than a busy machine's noise: a limit on each would fail by chance.
settings.register_profile("s2d", deadline=None)
settings.load_profile("s2d")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: one that came last would leave the other worker without work."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Prefect server of this session's own; nothing is written to the user's."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, PREFECT_LOCAL_STORAGE_PATH, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    storage = str(tmp_path_factory.mktemp("prefect-results"))
    settings = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_LOCAL_STORAGE_PATH: storage}
    with prefect_test_harness(server_startup_timeout=90), temporary_settings(settings):
        yield


@pytest.fixture
def smoke(tmp_path: Path) -> Config:
    """The smoke recipe, in process, with a store of the test's own."""
    return load_config("smoke", [f"store={tmp_path / 'store'}", "launch.mode=inproc"])


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint of an S3 server of this session's own."""
    port = free_port()
    # A process of its own: vLLM looks at everything that is imported where it starts, and Flask's proxies raise.
    command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not answers(port):
            assert server.poll() is None and time.monotonic() < deadline, "the S3 server did not start"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a bucket, with the environment that leads there."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "anything",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    urlopen(Request(f"{s3_server}/bucket", method="PUT")).close()
    return "s3://bucket"
