"""Attaching to a Ray cluster: a local one of this process's own, and what is said when there is none."""

import socket
import subprocess
import sys
from ipaddress import ip_address

import pytest

from s2d_core.config.compose import load_config
from s2d_core.config.schema import Config
from s2d_core.errors import CheckpointError, ResourceError
from s2d_core.launch import launch
from s2d_core.launch.cluster import connect, disconnect, stage_resources
from s2d_core.plan import plan


def configured(tmp_path: object, *overrides: str) -> Config:
    return load_config("smoke", [f"store={tmp_path}/store", *overrides])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_stage_takes_its_training_workers_and_their_rollout_workers(tmp_path: object) -> None:
    config = configured(tmp_path, "training.workers=2", "training.gpus_per_worker=1", "rollouts.workers=3")
    assert stage_resources(config) == {"CPU": 8.0, "GPU": 2.0}


@pytest.mark.parametrize("mode", ["inproc", "job"])
def test_other_ways_of_launching_start_no_cluster(tmp_path: object, mode: str) -> None:
    connect(configured(tmp_path, f"launch.mode={mode}"))
    import ray

    assert not ray.is_initialized()


@pytest.mark.slow
def test_an_unreachable_cluster_is_a_resource_error_that_says_what_to_do(tmp_path: object) -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(ResourceError, match=rf"{address}.*ray start --head"):
        connect(configured(tmp_path, f"launch.address={address}"))


@pytest.mark.slow
def test_a_cluster_too_small_for_a_stage_is_refused_before_anything_starts(tmp_path: object) -> None:
    try:
        with pytest.raises(ResourceError, match=r"needs 9 CPU.*has 2.*training\.workers"):
            connect(configured(tmp_path, "launch.cpus=2", "training.workers=9"))
    finally:
        disconnect()


LISTENERS = """
import psutil, sys
from s2d_core.config.compose import load_config
from s2d_core.launch.cluster import connect, disconnect
connect(load_config("smoke", [f"store={sys.argv[1]}", "launch.cpus=2"]))
here = psutil.Process()
for process in [here, *here.children(recursive=True)]:
    for connection in process.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN:
            print(connection.laddr.ip)
disconnect()
"""


@pytest.mark.slow
def test_a_local_cluster_listens_on_loopback_only(tmp_path: object) -> None:
    # In a process of its own, since Ray reads how to listen when it is first imported.
    command = [sys.executable, "-c", LISTENERS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    addresses = {ip_address(line.removeprefix("::ffff:")) for line in done.stdout.split()}
    assert addresses, done.stderr
    assert all(address.is_loopback for address in addresses)


@pytest.mark.slow
def test_stages_run_on_a_local_cluster_and_report_their_own_errors(tmp_path: object) -> None:
    config = configured(tmp_path, "launch.cpus=2")
    specs = {spec.name: spec for spec in plan(config, ["direct_grpo"], [0]).specs.values()}
    connect(config)
    try:
        data, orphan = launch(specs["data"], config.launch), launch(specs["student_rl"], config.launch)
        assert data.wait(240.0) and orphan.wait(240.0)
        assert data.result().name == "data"
        with pytest.raises(CheckpointError):
            orphan.result()
    finally:
        disconnect()
    import ray

    assert not ray.is_initialized()
