"""The Ray cluster this process attaches to: started here (one machine, loopback only) or already running."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from s2d_core.config.schema import Config, LaunchConfig
from s2d_core.errors import ResourceError
from s2d_core.launch.head import knock

OBJECT_STORE_BYTES = 256 << 20
CONNECT_SECONDS = 30.0


def connect(config: Config) -> None:
    """Attach, once, from the main thread and before any stage is launched.

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

    if not ray.is_initialized():
        with _keeping_sigterm():
            _start_local(config) if local else _attach(config.launch.address)
    _check_resources(config, ray.cluster_resources())


def disconnect() -> None:
    """Leave the cluster; a local one ends."""
    import ray

    if ray.is_initialized():
        ray.shutdown()


def dashboard(launch: LaunchConfig) -> str | None:
    """Address of the Ray dashboard of the cluster that stages run on; None where there is none."""
    if launch.mode == "job":
        return launch.address
    import ray

    if launch.mode != "ray" or not ray.is_initialized():
        return None
    address = ray.init(ignore_reinit_error=True).dashboard_url  # attached already: only says where to
    return f"http://{address}" if address else None


def stage_resources(config: Config) -> dict[str, float]:
    """What one stage takes: its training workers and their rollout workers."""
    training, rollouts = config.training, config.rollouts
    cpus = training.workers * (training.cpus_per_worker + rollouts.workers)
    return {"CPU": cpus, "GPU": training.workers * training.gpus_per_worker}


def _start_local(config: Config) -> None:
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # loopback, one user, gone with this process
    import ray

    needed = config.launch.parallel_stages * stage_resources(config)["CPU"]
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
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
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


def _check_resources(config: Config, available: dict[str, float]) -> None:
    for name, needed in stage_resources(config).items():
        if needed > available.get(name, 0.0):
            raise ResourceError(
                f"a stage needs {needed:g} {name} and the Ray cluster has {available.get(name, 0.0):g}; lower "
                "training.workers, training.cpus_per_worker, training.gpus_per_worker or rollouts.workers, or add nodes"
            )
