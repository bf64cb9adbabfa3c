"""A deployment served by a real worker, as tests use it: trigger runs, cancel them, read what became of them."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psutil
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling


def outside() -> dict[str, str]:
    """The environment without what a cluster that a test has started in this process leaves there: a head or a driver
    that has it takes 127.0.0.1 for an address, and one that has not takes it for the machine's own."""
    return {name: value for name, value in os.environ.items() if name != "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"}


def eventually(condition: Callable[[], Any], seconds: float, what: str) -> float:
    """Wait until ``condition``; returns how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"not within {seconds:g} s: {what}"
        time.sleep(0.2)
    return time.monotonic() - began


@dataclass
class Served:
    """The server's client, the deployment's id and name, and the environment that reaches the server."""

    client: SyncPrefectClient
    deployment: UUID
    name: str
    environment: dict[str, str]

    def trigger(self, parameters: dict[str, Any]) -> UUID:
        # With a key of its own: a request that a busy server answers too late is sent again, and would start two runs.
        made = self.client.create_flow_run_from_deployment(
            self.deployment, parameters=parameters, idempotency_key=str(uuid4())
        )
        return made.id

    def reaches(self, run: UUID, condition: Callable[[], Any], what: str, seconds: float = 240) -> None:
        """Wait for ``condition`` as long as ``run`` has not ended without it."""

        def look() -> bool:
            state = self.read(run).state
            assert condition() or not (state and state.is_final()), f"before {what}: {state}"
            return bool(condition())

        eventually(look, seconds, what)

    def read(self, run: UUID) -> FlowRun:
        return self.client.read_flow_run(run)

    def ends(self, run: UUID, seconds: float = 240) -> tuple[str, str]:
        """Name and message of the state a run ends in."""
        eventually(lambda: self.read(run).state.is_final(), seconds, "the run ends")  # type: ignore[union-attr]
        state = self.read(run).state
        assert state is not None
        return str(state.name), str(state.message)

    def process(self, run: UUID) -> psutil.Process:
        """The process that executes a run; a process worker notes it as HOST:PID."""
        return psutil.Process(int(str(self.read(run).infrastructure_pid).rpartition(":")[2]))

    def cancel(self, run: UUID) -> None:
        """What the button in the UI does."""
        self.client.set_flow_run_state(run, Cancelling())
