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
from s2d_core.store import Store


def configured(tmp_path: object, *overrides: str) -> Config:
    return load_config("smoke", [f"store={tmp_path}/store", *overrides])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_stage_takes_its_training_workers_and_one_fleet_of_rollout_workers(tmp_path: object) -> None:
    training = "{workers: 2, gpus_per_worker: 1, resources_per_worker: {fast: 0.5}}"
    rollouts = "{workers: 3, gpus_per_worker: 0.5}"
    config = configured(tmp_path, f"resources.student_rl={{training: {training}, rollouts: {rollouts}}}")
    needs = {spec.name: stage_resources(spec) for spec in plan(config, ["direct_grpo"], [0]).specs.values()}
    assert needs["student_rl"] == {"CPU": 5.0, "GPU": 3.5, "fast": 1.0}
    assert needs["evaluate"] == {"CPU": 1.0}


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
    config = configured(tmp_path, "launch.cpus=2", "resources.student_rl.training.workers=9")
    try:
        with pytest.raises(ResourceError, match=r"student_rl needs 9 CPU.*has 2.*resources"):
            connect(config, plan(config, ["direct_grpo"], [0]).specs.values())
    finally:
        disconnect()


@pytest.mark.slow
def test_a_stage_waits_for_processors_that_others_hold_and_only_then_counts_as_started(tmp_path: object) -> None:
    config = configured(tmp_path, "launch.cpus=1", "launch.parallel_stages=1")
    specs = {spec.name: spec for spec in plan(config, ["direct_grpo"], [0]).specs.values()}
    store = Store(config.store)
    connect(config, specs.values())
    import ray

    @ray.remote
    class Someone:
        def there(self) -> bool:
            return True

    other = Someone.options(num_cpus=1).remote()  # type: ignore[attr-defined]  # Ray's stubs
    try:
        assert ray.get(other.there.remote())
        handle = launch(specs["data"], config.launch)
        assert not handle.wait(3.0) and not store.started(specs["data"])
        ray.kill(other)
        assert handle.wait(240.0) and store.started(specs["data"])
        assert handle.result().name == "data"
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
