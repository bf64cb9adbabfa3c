"""The Ray cluster this process attaches to: started here (one machine, loopback only) or already running."""

import logging
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from s2d_core.config.schema import Config, LaunchConfig, RolloutsConfig, TrainingConfig
from s2d_core.errors import ResourceError
from s2d_core.launch.head import knock
from s2d_core.spec import StageSpec
from s2d_core.workers import reserved

OBJECT_STORE_BYTES = 256 << 20
CONNECT_SECONDS = 30.0
_dashboards: dict[str, str] = {}  # address of an attached cluster → that of its dashboard


def connect(config: Config, specs: Iterable[StageSpec] = ()) -> None:
    """Attach, once, from the main thread and before any stage is launched.

    specs: the stages that will be launched, of which the cluster must be able to hold the largest; none: any stage
    without resources of its own.
    Raises ResourceError when the cluster does not answer or can never hold one of the stages.
    """
    if config.launch.mode != "ray":
        return
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    local = config.launch.address == "local"
    if local:
        # Ray replaces a loopback address by the machine's own, and then listens everywhere, unless told that nodes on
        # other machines are not wanted, by a variable that it reads on import.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    needs = {spec.name: stage_resources(spec) for spec in specs}
    needs = needs or {"a stage": reserved(config.training, config.rollouts)}
    if not ray.is_initialized():
        with _keeping_sigterm():
            _start_local(config, needs) if local else _attach(config.launch.address)
    _check_resources(needs, ray.cluster_resources())


def disconnect() -> None:
    """Leave the cluster; a local one ends."""
    import ray

    if ray.is_initialized():
        ray.shutdown()


def dashboard(launch: LaunchConfig) -> str | None:
    """Address of the Ray dashboard of the cluster that stages run on; None where there is none."""
    if launch.mode == "job":
        return launch.address
    url = _dashboards.get(launch.address) if launch.mode == "ray" else None
    return f"http://{url}" if url else None


def capacity(launch: LaunchConfig) -> dict[str, float]:
    """All that the attached cluster has, by resource; empty where stages run elsewhere."""
    if launch.mode != "ray":
        return {}
    import ray

    return dict(ray.cluster_resources())


def stage_resources(spec: StageSpec) -> dict[str, float]:
    """What a stage takes: its training workers and its rollout workers."""
    execution = spec.execution
    return reserved(TrainingConfig(**execution["training"]), RolloutsConfig(**execution["rollouts"]))


def _start_local(config: Config, needs: Mapping[str, Mapping[str, float]]) -> None:
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # loopback, one user, gone with this process
    import ray

    needed = config.launch.parallel_stages * max(need["CPU"] for need in needs.values())
    cpus = config.launch.cpus or max(os.cpu_count() or 1, round(needed))
    ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        _node_ip_address="127.0.0.1",
        logging_level=logging.ERROR,
        log_to_driver=False,  # stages write their own log, which the caller follows
    )


@contextmanager
def _keeping_sigterm() -> Iterator[None]:
    """Ray takes SIGTERM for itself, and aborts the process 3 s after one. Whoever had it, as Prefect does in a flow
    run, needs it to stop stages in good order."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _attach(address: str) -> None:
    """``ray.init`` against a cluster that is gone blocks for minutes, so it gets a time limit of its own."""
    import ray

    errors: list[BaseException] = []

    def attach() -> None:
        try:
            knock(address, CONNECT_SECONDS)
            attached = ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
            _dashboards[address] = attached.dashboard_url or ""
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=attach, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    if thread.is_alive() or errors:
        reason = str(errors[0]).splitlines()[0] if errors else f"no answer within {CONNECT_SECONDS:.0f} s"
        raise ResourceError(
            f"launch.address = {address!r}: no Ray cluster answers there ({reason}); start one with "
            "`ray start --head`, give its address, or use launch.address=local"
        )


def _check_resources(needs: Mapping[str, Mapping[str, float]], available: Mapping[str, float]) -> None:
    """A stage that must wait for others waits; one that can never start is refused. The most demanding is named."""
    for name in {name for need in needs.values() for name in need}:
        stage = max(needs, key=lambda stage: needs[stage].get(name, 0.0))
        needed, there = needs[stage][name], available.get(name, 0.0)
        if needed > there:
            raise ResourceError(
                f"{stage} needs {needed:g} {name} and the Ray cluster has {there:g}; lower training.workers, "
                "rollouts.workers or what they reserve (*_per_worker), for all stages or under resources.<stage>, "
                "or add nodes"
            )
