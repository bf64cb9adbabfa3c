"""One worker a session, and the flow ``sparse_to_dense`` as a deployment that it serves."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Served, outside

ROOT = Path(__file__).parents[2]
POOL = "served"


@pytest.fixture(scope="session")
def served(prefect_server: None) -> Iterator[Served]:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.settings import get_current_settings

    from flows.sparse_to_dense import sparse_to_dense

    environment = outside() | {
        "PREFECT_API_URL": str(get_current_settings().api.url),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "5",  # how long a driver looks for a head that is gone
    }
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        source = sparse_to_dense.from_source(str(ROOT), "flows/sparse_to_dense.py:sparse_to_dense")
        deployment = source.deploy(POOL, work_pool_name=POOL, print_next_steps=False, ignore_warnings=True)
        worker = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        try:
            yield Served(client, deployment, f"sparse_to_dense/{POOL}", environment)
        finally:
            worker.terminate()
            worker.wait(60)
