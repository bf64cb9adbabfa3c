"""Ray Job Submission against a real head node: one job a spec, found again by whoever asks for it."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.settings import free_port
from s2d_core.config.compose import load_config
from s2d_core.config.schema import Config
from s2d_core.errors import ResourceError, S2DError
from s2d_core.launch import launch
from s2d_core.plan import plan
from s2d_core.spec import StageSpec
from tests.ports import answers


def configured(tmp_path: Path, address: str) -> Config:
    return load_config("smoke", [f"store={tmp_path / 'store'}", "launch.mode=job", f"launch.address={address}"])


def specs(config: Config) -> dict[str, StageSpec]:
    return {spec.name: spec for spec in plan(config, ["direct_grpo"], [0]).specs.values()}


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """A head node with its job server, on loopback; ends with the module."""
    import ray

    port, agent_port = free_port(), free_port()
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=3"]
    command += [f"--port={free_port()}", f"--dashboard-port={port}", "--node-ip-address=127.0.0.1"]
    # Ray's default for these two are fixed ports; a head that does not get its agent's takes no jobs, and says nothing.
    command += [f"--dashboard-agent-listen-port={agent_port}", f"--ray-client-server-port={free_port()}"]
    command += ["--include-dashboard=true", "--object-store-memory=104857600", "--disable-usage-stats"]
    # Ray sends a head's jobs to the cluster that was started last with its folder.
    command.append(f"--temp-dir={tempfile.mkdtemp(prefix='ray-', dir='/tmp')}")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    try:
        for needed in (port, agent_port):
            while not answers(needed):
                assert process.poll() is None and time.monotonic() < deadline, "the head node did not start"
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)
        assert not ray.is_initialized()  # submitting jobs never attaches this process


def test_an_unreachable_job_server_is_a_resource_error_that_says_what_to_do(tmp_path: Path) -> None:
    config = configured(tmp_path, f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ResourceError, match=r"launch\.address.*dashboard address"):
        launch(specs(config)["data"], config.launch)


@pytest.mark.slow
def test_two_launchers_of_one_spec_share_one_job(tmp_path: Path, head: str) -> None:
    from ray.job_submission import JobSubmissionClient

    config = configured(tmp_path, head)
    spec = specs(config)["data"]
    first, second = launch(spec, config.launch), launch(spec, config.launch)
    assert first.wait(240.0) and second.wait(120.0)
    assert first.result() == second.result()
    jobs = [job for job in JobSubmissionClient(head).list_jobs() if (job.submission_id or "").startswith(spec.id)]
    assert len(jobs) == 1
    assert jobs[0].metadata == {"s2d_stage": "data", "s2d_fingerprint": spec.fingerprint}


@pytest.mark.slow
def test_two_experiments_on_one_cluster_share_neither_jobs_nor_files(tmp_path: Path, head: str) -> None:
    """The same stage for two stores: neither takes the other's job for its own."""
    configs = [configured(tmp_path / name, head) for name in ("one", "two")]
    spec_of = [specs(config)["data"] for config in configs]
    assert spec_of[0].fingerprint == spec_of[1].fingerprint
    handles = [launch(spec, config.launch) for spec, config in zip(spec_of, configs, strict=True)]
    assert all(handle.wait(240.0) for handle in handles)
    assert [handle.result().name for handle in handles] == ["data", "data"]


@pytest.mark.slow
def test_a_job_that_fails_gives_the_stages_own_message(tmp_path: Path, head: str) -> None:
    config = configured(tmp_path, head)
    orphan = specs(config)["student_rl"]
    handle = launch(orphan, config.launch)
    assert handle.wait(240.0)
    with pytest.raises(S2DError, match="run the stage that makes it first"):
        handle.result()


@pytest.mark.slow
def test_a_cancelled_job_ends(tmp_path: Path, head: str) -> None:
    config = configured(tmp_path, head)
    handle = launch(specs(config)["pretrain_student"], config.launch)
    handle.cancel()
    assert handle.wait(240.0)
    with pytest.raises(S2DError, match="STOPPED"):
        handle.result()
