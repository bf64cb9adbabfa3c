"""What every flow shares: plan, connect, submit all, wait, report, tell MLflow; and the parameters they have in common.

A ``Session`` is one flow run's use of the cluster and of MLflow; a flow that decides as it goes (``tune``) runs several
plans in one.
"""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from prefect import get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.futures import PrefectFuture, wait
from prefect.states import Completed, Failed, State
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows.prepare import NOTHING, Prepared
from s2d_core.config.compose import recipe_names
from s2d_core.config.schema import Config
from s2d_core.errors import S2DError
from s2d_core.evaluation.comparison import Verdict
from s2d_core.expectations import unmet
from s2d_core.launch.cluster import capacity, connect, disconnect
from s2d_core.mirror import open_mirror
from s2d_core.plan import Plan
from s2d_core.report.data import headline
from s2d_core.spec import StageResult
from s2d_core.store import Store
from tasks.links import publish_links
from tasks.planning import FINISHED, describe, plan_rows, reasons
from tasks.report import arm_rows, contrast_rows, make_report, publish_report, run_metrics
from tasks.stage import Listener, Runner, run_stage
from tasks.tracking import Tracker

MOST_TASKS = 256  # waiting ones included; how many stages really run at once is for the slots to say
TASK_RUNNER: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=MOST_TASKS)
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)

Recipe = Annotated[str, Field(description=f"Shipped recipe ({', '.join(recipe_names())}), or path of a YAML file")]
Arms = Annotated[list[str] | None, Field(description="Arms to run; none: all of the recipe's")]
Seeds = Annotated[list[int], Field(description="Each seed trains every arm once")]
Overrides = Annotated[list[str], Field(description="key=value, e.g. stages.opd.steps=100")]
Expect = Annotated[
    dict[str, Verdict], Field(description="JSON, contrast to verdict; the run fails if it finds another, for CI")
]
DryRun = Annotated[bool, Field(description="Plan only: train nothing")]


@dataclass(frozen=True)
class Outcome:
    """What a run leaves: the report's page, tables for people, the finding and what failed, both in words, and the
    numbers by which MLflow compares whole runs."""

    report: Path
    tables: list[list[dict[str, Any]]]
    finding: str
    failed: list[str]
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def state(self) -> State[Any]:
        """How the flow run ends."""
        if self.failed:
            return Failed(message="; ".join(self.failed), data=self)
        return Completed(message=self.finding, data=self)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell ``listener`` of each stage's progress in the runs within; a flow's own parameters stay plain data."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


class Session:
    """Runs plans, one after another. The cluster is joined, and MLflow told, when the first has something to say."""

    def __init__(self, config: Config, arms: Sequence[str], seeds: Sequence[int]) -> None:
        self.config, self.arms, self.seeds = config, list(arms), list(seeds)
        self.store, self._connected = Store(config.store), False

    @cached_property
    def runner(self) -> Runner:
        tracker = Tracker(self.config, self.seeds, self.arms)
        publish_links(tracker, self.config.launch)
        return Runner(self.config, tracker, _listener.get())

    def run(self, planned: Plan, why: dict[str, str]) -> list[str]:
        """Run what is missing of ``planned``, ``why`` being its ``reasons``; returns what failed, in words."""
        if not self._connected and any(reason not in FINISHED for reason in why.values()):
            self._connected = True  # a run with everything finished never starts Ray
            connect(self.config, [planned.specs[f] for f, reason in why.items() if reason not in FINISHED])
        self.runner.learn(planned)
        if self._connected:
            self.runner.slots.room = capacity(self.config.launch)
        futures = self._submit(planned)
        wait(list(futures.values()))
        return [*failures(planned, futures), *self.runner.take_not_copied()]

    def close(self, outcome: Outcome) -> None:
        """MLflow's parent run ends, with the report's folder as its artifacts."""
        self.runner.tracker.close(outcome.report.parent, not outcome.failed, outcome.metrics)

    def abort(self) -> None:
        """No stage outlives the run that follows it."""
        if "runner" in self.__dict__:
            self.runner.stop()
            self.runner.tracker.close(None, succeeded=False, metrics={})

    def leave(self) -> None:
        if self._connected:
            disconnect()

    def _submit(self, planned: Plan) -> dict[str, PrefectFuture[StageResult]]:
        """One task for each distinct stage; the futures of what it waits for as arguments draw the edges."""
        futures: dict[str, PrefectFuture[StageResult]] = {}
        stage = run_stage.with_options(retries=self.config.launch.retries)

        def submit(fingerprint: str) -> PrefectFuture[StageResult]:
            if fingerprint not in futures:
                spec = planned.specs[fingerprint]
                parents = [submit(parent) for parent in self.runner.parents(spec)]
                futures[fingerprint] = stage.submit(self.runner.titles[fingerprint], spec, parents, self.runner)  # type: ignore[arg-type]  # futures become results
            return futures[fingerprint]

        for fingerprint in planned.specs:
            submit(fingerprint)
        return futures


@contextmanager
def session(config: Config, arms: Sequence[str], seeds: Sequence[int]) -> Iterator[Session]:
    """A session that is ended in good order, after Ctrl-C and SIGTERM too."""
    opened = Session(config, arms, seeds)
    try:
        yield opened
    except BaseException:
        opened.abort()
        raise
    finally:
        opened.leave()


def announce(planned: Plan, config: Config) -> dict[str, str]:
    """Log and publish the plan; returns its ``reasons``."""
    why = reasons(planned, Store(config.store), open_mirror(config))
    get_run_logger().info(describe(planned, config, why))
    create_table_artifact(
        plan_rows(planned, config, why), key="plan", description="Every distinct stage, parents first; cached: finished"
    )
    return why


def only_planned(planned: Plan, why: dict[str, str]) -> State[Any]:
    """How a dry run ends."""
    missing = sum(reason not in FINISHED for reason in why.values())
    return Completed(message=f"{len(planned.specs)} stages planned, {missing} would run")


# (what ran the stages, what failed) → the outcome; writes the report
Report = Callable[[Runner, list[str]], Outcome]


def experiment(prepared: Prepared, dry_run: bool, report: Report) -> State[Any]:
    """Run the whole plan, whatever fails of it, and report."""
    config, planned = prepared.config, prepared.plan
    why = announce(planned, config)
    if dry_run:
        return only_planned(planned, why)
    with session(config, list(planned.arms), list(next(iter(planned.arms.values())))) as running:
        failed = running.run(planned, why)
        outcome = report(running.runner, failed)
        running.close(outcome)
    return outcome.state


def comparison(prepared: Prepared, command: str, expect: Mapping[str, Verdict] = NOTHING) -> Report:
    """The report that compares arms: accuracy, contrasts, pictures, what failed. A finding that differs from
    ``expect`` is a failure too."""

    def report(runner: Runner, failed: list[str]) -> Outcome:
        page, data = make_report(prepared.config, prepared.plan, runner.cached, command, failed)
        publish_report(data, page, runner.tracker.report_page)
        tables = [arm_rows(data), contrast_rows(data) if len(data["contrasts"]) > 1 else []]
        return Outcome(page, tables, headline(data), [*failed, *unmet(data, expect)], run_metrics(data))

    return report


def failures(planned: Plan, futures: dict[str, PrefectFuture[StageResult]]) -> list[str]:
    """What went wrong, stage by stage; stages that only lacked a parent are not the cause and are left out."""
    found = []
    for fingerprint, future in futures.items():
        if future.state.is_completed() or future.state.name == "NotReady":
            continue
        error = future.state.result(raise_on_failure=False)
        text = str(error) if isinstance(error, S2DError) else f"{type(error).__name__}: {error}"
        stage = planned.specs[fingerprint].id
        found.append(text if stage in text else f"{stage}: {text}")
    return found


def command_line(flow: str, /, overrides: Sequence[str] = (), **parameters: Any) -> str:
    """The command that runs the same flow again; parameters that are None or empty are left out."""
    words = ["python", "-m", "flows", *([] if flow == "sparse_to_dense" else [flow])]
    for name, value in (*parameters.items(), ("set", overrides)):
        if isinstance(value, dict):
            value = [f"{key}={each}" for key, each in value.items()]
        values = value if isinstance(value, list | tuple) else [] if value is None else [value]
        words += [f"--{name.replace('_', '-')}", *map(str, values)] if values else []
    return shlex.join(words)
