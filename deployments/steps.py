"""What happens in a deployed run before its flow: Prefect calls these as pull steps. A run that must not go on ends
in a state that says why."""

from datetime import UTC, datetime
from typing import Any, NoReturn
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
)
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import Abort
from prefect.runtime import flow_run
from prefect.states import Cancelled, Failed

from deployments.definitions import load_flow, schema_version


def check_version(entrypoint: str, registered: str) -> None:
    """End a run whose form was drawn by code with other parameters than this code has."""
    here = schema_version(load_flow(entrypoint))
    if here.rpartition("+")[2] != registered.rpartition("+")[2]:
        _end(
            Failed(
                message=f"the deployment was registered by version {registered}, and this worker runs {here}, whose "
                "parameters differ: register it again (make deploy), then start a new run"
            )
        )


def catch_up() -> None:
    """Of the runs that a schedule missed while no worker was there, only the newest runs."""
    with get_client(sync_client=True) as client:
        mine = client.read_flow_run(_id())
        if not mine.auto_scheduled or mine.expected_start_time is None:
            return
        newer = client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[mine.deployment_id])),
            flow_run_filter=FlowRunFilter(
                expected_start_time=FlowRunFilterExpectedStartTime(
                    after_=mine.expected_start_time, before_=datetime.now(UTC)
                )
            ),
        )
    if any(_replaces(each, mine) for each in newer):
        _end(Cancelled(message="skipped: missed, and a newer run of the same schedule is due"))


def _replaces(newer: FlowRun, mine: FlowRun) -> bool:
    return newer.id != mine.id and newer.auto_scheduled and newer.parameters == mine.parameters


def _id() -> UUID:
    return UUID(flow_run.get_id())


def _end(state: State[Any]) -> NoReturn:
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(_id(), state)
    raise Abort(state.message or "")
