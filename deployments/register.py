"""``python -m deployments.register``: work pools, deployments, schedules and automations, on whatever Prefect API is
configured.

Everything is validated before the first of them is written, and doing it again changes nothing but what has changed.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions, WorkerStatus
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL
from prefect.utilities.callables import parameter_schema

from deployments.automations import register_automations
from deployments.definitions import (
    DeploymentDefinition,
    PoolDefinition,
    load_definitions,
    load_flow,
    schema_version,
)
from s2d_core.errors import ConfigError, ResourceError, S2DError

STEP = "deployments.steps.check_version"
CATCH_UP = "deployments.steps.catch_up"


def register(pool: str) -> None:
    """Register everything; runs of the deployments go to ``pool``. Raises S2DError that says what to do."""
    found = load_definitions()
    if pool not in found.work_pools:
        raise ConfigError(f"--pool {pool}: unknown; allowed: {', '.join(found.work_pools)}")
    if not (api := PREFECT_API_URL.value()):
        raise ConfigError("PREFECT_API_URL is not set: start the services (make serve), or give your server's address")
    with _explained(api), get_client(sync_client=True) as client:
        for name, definition in found.work_pools.items():
            _pool(client, name, definition)
        for deployment in found.deployments:
            _deploy(client, deployment, pool)
        for name in register_automations(client):
            print(f"registered {name}")
        if not any(worker.status == WorkerStatus.ONLINE for worker in client.read_workers_for_work_pool(pool)):
            hint = f"make serve, or prefect worker start --pool {pool}"
            print(f"no worker serves {pool} now, and runs wait until one does: {hint}", file=sys.stderr)


def _pool(client: SyncPrefectClient, name: str, definition: PoolDefinition) -> None:
    """Make the pool, or leave what somebody has changed in it since. Raises ConfigError for one of another type."""
    try:
        there = client.read_work_pool(name)
    except ObjectNotFound:
        template = _template(client, definition.type)
        client.create_work_pool(
            WorkPoolCreate(
                name=name,
                type=definition.type,
                description=definition.description,
                concurrency_limit=definition.concurrency_limit,
                base_job_template=template,
            )
        )
        return
    if there.type != definition.type:
        raise ConfigError(
            f"work pool {name}: there already, of type {there.type} and not {definition.type}; delete it "
            f"(prefect work-pool delete {name}) and register again"
        )


def _template(client: SyncPrefectClient, type_: str) -> dict[str, Any]:
    """The base job template of the worker type, from the registry that Prefect's server carries along."""
    for workers in client.read_worker_metadata().values():
        if type_ in workers:
            template: dict[str, Any] = workers[type_]["default_base_job_configuration"]
            return template
    raise ResourceError(f"the Prefect server knows no workers of type {type_}; use a newer one")


def _deploy(client: SyncPrefectClient, definition: DeploymentDefinition, pool: str) -> None:
    flow = load_flow(definition.entrypoint)
    registered = schema_version(flow)
    before = _existing(client, definition)
    off = {each.slug for each in before.schedules if not each.active} if before else set()
    client.create_deployment(
        flow_id=client.create_flow_from_name(definition.flow),
        name=definition.name,
        version=registered,
        description=definition.description,
        tags=list(definition.tags),
        entrypoint=definition.entrypoint,
        path=".",
        parameters=definition.parameters,
        parameter_openapi_schema=parameter_schema(flow).model_dump(),
        enforce_parameter_schema=True,
        concurrency_limit=definition.concurrency_limit,
        concurrency_options=ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy.ENQUEUE),
        work_pool_name=pool,
        pull_steps=[{STEP: {"entrypoint": definition.entrypoint, "registered": registered}}, {CATCH_UP: {}}],
        schedules=[
            DeploymentScheduleCreate(
                schedule=each.schedule,
                slug=each.slug,
                parameters=each.parameters,
                active=each.slug not in off,  # what somebody has switched off stays off
            )
            for each in definition.schedules
        ],
    )
    print(f"registered {definition.full_name}")
    for each in definition.schedules:
        print(f"  {each.slug}: {each.cron} {each.timezone}{' (switched off)' if each.slug in off else ''}")


def _existing(client: SyncPrefectClient, definition: DeploymentDefinition) -> DeploymentResponse | None:
    try:
        return client.read_deployment_by_name(definition.full_name)
    except ObjectNotFound:
        return None


@contextmanager
def _explained(api: str) -> Iterator[None]:
    """What the server, or its absence, says, in words that say what to do."""
    try:
        yield
    except httpx.TransportError as error:
        raise ResourceError(
            f"PREFECT_API_URL = {api}: no Prefect server answers ({error}); start one with make serve, or give the "
            "address of yours"
        ) from error
    except PrefectHTTPStatusError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise ResourceError(
                f"PREFECT_API_URL = {api}: refused ({status}); set PREFECT_API_AUTH_STRING=user:password (or "
                "PREFECT_API_KEY for Prefect Cloud) to credentials that are valid now"
            ) from error
        if status >= 500:
            raise ResourceError(
                f"PREFECT_API_URL = {api}: the server failed ({status}); if it was upgraded, its database may be of "
                "another version: run prefect server database upgrade where it runs, and see its log"
            ) from error
        raise ResourceError(f"PREFECT_API_URL = {api}: {error}") from error


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m deployments.register", description=__doc__)
    parser.add_argument("--pool", default="s2d", help="work pool that runs are sent to (default: %(default)s)")
    try:
        register(parser.parse_args(words).pool)
    except S2DError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
