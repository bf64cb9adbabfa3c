"""``deployments.yaml``, read and validated as a whole before anything is registered."""

import hashlib
import importlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import yaml
from prefect import Flow
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ParameterTypeError, SignatureMismatchError
from prefect.utilities.callables import parameter_schema
from pydantic import Field, ValidationError

from s2d_core.config.base import Positive, Strict
from s2d_core.config.compose import load_config, validate
from s2d_core.errors import ConfigError

FILE = Path(__file__).parent / "deployments.yaml"


class PoolDefinition(Strict):
    type: Literal["process", "docker", "kubernetes"]
    description: str
    concurrency_limit: Positive | None = None


class ScheduleDefinition(Strict):
    """``parameters`` replace the deployment's in the runs of this schedule."""

    slug: str
    cron: str
    timezone: str
    parameters: dict[str, Any] = Field(default_factory=dict)

    @property
    def schedule(self) -> CronSchedule:
        return CronSchedule(cron=self.cron, timezone=self.timezone)


class DeploymentDefinition(Strict):
    """``concurrency_limit``: runs at once; further ones wait their turn."""

    name: str
    flow: str
    description: str
    tags: tuple[str, ...]
    concurrency_limit: Positive
    parameters: dict[str, Any] = Field(default_factory=dict)
    schedules: tuple[ScheduleDefinition, ...] = ()

    @property
    def full_name(self) -> str:
        return f"{self.flow}/{self.name}"

    @property
    def entrypoint(self) -> str:
        """Importable wherever the project is installed: on this machine, in a container, in a pod."""
        return f"flows.{self.flow}.{self.flow}"


class Definitions(Strict):
    work_pools: dict[str, PoolDefinition]
    deployments: tuple[DeploymentDefinition, ...]


def load_definitions(path: Path = FILE) -> Definitions:
    """Raises ConfigError naming the deployment whose flow, parameters or schedule cannot work."""
    found = validate(Definitions, yaml.safe_load(path.read_text()), prefix=path.name)
    for deployment in found.deployments:
        _check(deployment)
    return found


def load_flow(entrypoint: str) -> Flow[..., Any]:
    """The flow at ``package.module.name``. Raises ConfigError when there is none."""
    module, _, name = entrypoint.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise ConfigError(f"{entrypoint}: cannot be imported: {error}") from error
    if not isinstance(found, Flow):
        raise ConfigError(f"{entrypoint}: not a flow")
    return found


def schema_version(flow: Flow[..., Any]) -> str:
    """The project's version, and a hash of the parameters that the flow takes."""
    schema = json.dumps(parameter_schema(flow).model_dump(), sort_keys=True)
    return f"{version('sparse-to-dense')}+{hashlib.sha256(schema.encode()).hexdigest()[:8]}"


def _check(deployment: DeploymentDefinition) -> None:
    flow = load_flow(deployment.entrypoint)
    for schedule in deployment.schedules:
        try:
            _ = schedule.schedule
        except ValidationError as error:
            wrong = error.errors()[0]
            raise ConfigError(
                f"{deployment.full_name}, schedule {schedule.slug}: {'.'.join(map(str, wrong['loc']))} = "
                f"{wrong['input']!r}: {wrong['msg']}"
            ) from error
    for parameters in ({}, *(schedule.parameters for schedule in deployment.schedules)):
        given = deployment.parameters | parameters
        try:
            flow.validate_parameters(given)
        except (ParameterTypeError, SignatureMismatchError) as error:
            raise ConfigError(f"{deployment.full_name}: {error}") from error
        config = load_config(given.get("recipe", "small_world"), given.get("overrides", ()))
        if unknown := [arm for arm in given.get("arms") or () if arm not in config.arms]:
            raise ConfigError(f"{deployment.full_name}: arms = {unknown}: unknown; allowed: {', '.join(config.arms)}")
