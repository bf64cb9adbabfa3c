"""Flow ``sparse_to_dense``: plan the DAG of arms × seeds, run what is not finished, compare, report."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.futures import PrefectFuture, wait
from prefect.states import Completed, Failed, State
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from s2d_core import fairness
from s2d_core.config.compose import load_config
from s2d_core.config.schema import Config
from s2d_core.errors import S2DError
from s2d_core.launch.cluster import connect, disconnect
from s2d_core.plan import Plan, plan
from s2d_core.preflight import preflight
from s2d_core.report.data import headline
from s2d_core.spec import StageResult
from s2d_core.store import Store
from tasks.planning import describe, mermaid, reasons
from tasks.report import make_report
from tasks.stage import Listener, Runner, run_stage
from tasks.tracking import Tracker

MOST_TASKS = 256  # waiting ones included; how many stages really run at once is for the slots to say
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@dataclass(frozen=True)
class Outcome:
    """What a run leaves: the report's page, the data of ``report.json``, and what failed, in words."""

    report: Path
    data: dict[str, Any]
    failed: list[str]


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell ``listener`` of each stage's progress in the runs within; a flow's own parameters stay plain data."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


TASK_RUNNER: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=MOST_TASKS)


@flow(name="sparse_to_dense", task_runner=TASK_RUNNER, validate_parameters=True)  # type: ignore[arg-type]
def sparse_to_dense(
    recipe: Annotated[str, Field(description="Name of a shipped recipe, or path of a YAML file")] = "small_world",
    arms: Annotated[list[str] | None, Field(description="Arms to run; none: all of the recipe's")] = None,
    seeds: Annotated[list[int], Field(description="Each seed trains every arm once")] = [0],  # noqa: B006
    overrides: Annotated[list[str], Field(description="key=value, e.g. stages.opd.steps=100")] = [],  # noqa: B006
    dry_run: Annotated[bool, Field(description="Plan only: train nothing")] = False,
) -> State[Any]:
    """Train every arm under every seed, measure them on the test problems, and say which claims hold.

    Stages that are finished, in this run or any earlier one, are not trained again.
    """
    logger, config = get_run_logger(), load_config(recipe, overrides)
    # Stages run in processes with other working directories.
    config = config.model_copy(update={"store": str(Path(config.store).absolute())})
    planned = plan(config, arms, seeds, preflight(config))
    fairness.check(config, planned)
    store = Store(config.store)
    why = reasons(planned, store)
    logger.info(describe(planned, config, why))
    create_markdown_artifact(f"```mermaid\n{mermaid(planned, why)}\n```", key="plan", description="The DAG of stages")
    missing = [fingerprint for fingerprint, reason in why.items() if reason != "cached"]
    if dry_run:
        return Completed(message=f"{len(planned.specs)} stages planned, {len(missing)} would run")
    if missing:  # a run with everything finished never starts Ray
        connect(config)
    tracker = Tracker(config, list(seeds), list(planned.arms))
    runner = Runner(config, tracker, planned.specs, _listener.get())
    try:
        futures = submit_all(planned, runner, config)
        wait(list(futures.values()))
        failed = failures(planned, futures)
        page, data = make_report(config, planned, runner.cached, command_line(recipe, arms, seeds, overrides))
        tracker.close(page.parent, succeeded=not failed)
    except BaseException:  # Ctrl-C and SIGTERM too: no stage outlives the run that follows it
        runner.stop()
        tracker.close(None, succeeded=False)
        raise
    finally:
        if missing:
            disconnect()
    outcome = Outcome(page, data, failed)
    if failed:
        return Failed(message="; ".join(failed), data=outcome)
    return Completed(message=headline(data), data=outcome)


def submit_all(planned: Plan, runner: Runner, config: Config) -> dict[str, PrefectFuture[StageResult]]:
    """One task for each distinct stage; the futures of what it waits for as arguments draw the edges."""
    futures: dict[str, PrefectFuture[StageResult]] = {}
    stage = run_stage.with_options(retries=config.launch.retries)

    def submit(fingerprint: str) -> PrefectFuture[StageResult]:
        if fingerprint not in futures:
            spec = planned.specs[fingerprint]
            parents = [submit(parent) for parent in runner.parents(spec)]
            futures[fingerprint] = stage.submit(spec, parents, runner)  # type: ignore[arg-type]  # futures become results
        return futures[fingerprint]

    for fingerprint in planned.specs:
        submit(fingerprint)
    return futures


def failures(planned: Plan, futures: dict[str, PrefectFuture[StageResult]]) -> list[str]:
    """What went wrong, stage by stage; stages that only lacked a parent are not the cause and are left out."""
    found = []
    for fingerprint, future in futures.items():
        if future.state.is_completed() or future.state.name == "NotReady":
            continue
        error = future.state.result(raise_on_failure=False)
        text = str(error) if isinstance(error, S2DError) else f"{type(error).__name__}: {error}"
        found.append(f"{planned.specs[fingerprint].id}: {text}")
    return found


def command_line(recipe: str, arms: Sequence[str] | None, seeds: Sequence[int], overrides: Sequence[str]) -> str:
    """The command that runs the same experiment."""
    words = ["python", "-m", "flows", "--recipe", recipe, "--seeds", *map(str, seeds)]
    words += ["--arms", *arms] if arms else []
    return shlex.join([*words, *(["--set", *overrides] if overrides else [])])
