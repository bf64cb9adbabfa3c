"""Ray jobs outlive the flow run that launched them. Which are whose, and their end when a run is cancelled whose own
process can no longer stop them: it was killed, or did not end when it was asked to."""

from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import FlowRun
from prefect.flows import Flow
from prefect.logging.loggers import flow_run_logger
from prefect.runtime import flow_run as this_run
from prefect.states import State
from prefect.utilities.callables import get_parameter_defaults

from s2d_core.config.compose import load_config
from s2d_core.launch.job import stop_jobs
from s2d_core.store import Store

OWNER = "owner"  # in a stage's directory: the flow run that launched its job, or attached to it, last


def claim(directory: Path) -> None:
    """This flow run answers for the stage's job from here on."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / OWNER).write_text(str(this_run.id))


def stop_owned_jobs(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Hook on cancellation: stop the jobs that this flow run answers for. Prefect calls it by these names, after the
    run's process has ended, so all it goes by is what lies in the store."""
    given = get_parameter_defaults(flow.fn) | flow_run.parameters
    config = load_config(given["recipe"], given["overrides"])
    if config.launch.mode == "job":
        owners = Store(config.store).stages.glob(f"*/{OWNER}")
        stages = {path.parent.name for path in owners if path.read_text() == str(flow_run.id)}
        for submission in stop_jobs(config.launch.address, stages):
            flow_run_logger(flow_run, flow).info("stopped Ray job %s", submission)
