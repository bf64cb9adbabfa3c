"""The Prefect task that runs one stage: exactly once, followed while it runs, found again when it is done."""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from s2d_core import gates
from s2d_core.config.schema import Config
from s2d_core.errors import ResourceError, S2DError, StageError
from s2d_core.launch import Handle, launch
from s2d_core.launch.cluster import stage_resources
from s2d_core.launch.head import Head
from s2d_core.mirror import Mirror, open_mirror
from s2d_core.plan import Plan
from s2d_core.spec import StageResult, StageSpec
from s2d_core.store import Store
from tasks.follow import StageFollower, describe
from tasks.jobs import claim
from tasks.locks import exclusive
from tasks.planning import titles
from tasks.slots import Slots, priorities
from tasks.tracking import Tracker

POLL_S = 0.5
LOG_EVERY_S = 5.0
GRACE_S = 60.0
STOP_S = 15.0
WAIT_SAID_S = 60.0  # the workers of a stage that need not wait start within it

# (stage id, steps done, steps in all, state: waiting, running, cached, done, failed)
Listener = Callable[[StageSpec, int, int, str], None]


class StoppedError(Exception):
    """The flow run is being stopped."""


class Runner:
    """What every stage task of one flow run shares."""

    def __init__(self, config: Config, tracker: Tracker, listener: Listener | None = None) -> None:
        parallel = 1 if config.launch.mode == "inproc" else config.launch.parallel_stages
        self.config, self.tracker = config, tracker
        self.specs: dict[str, StageSpec] = {}
        self.titles: dict[str, str] = {}
        self.priorities: dict[str, float] = {}
        self.store, self.mirror, self.slots = Store(config.store), open_mirror(config), Slots(parallel)
        self.tell: Listener = listener or (lambda spec, done, steps, state: None)
        self.head = Head(config.launch)
        self.cached: set[str] = set()
        self._not_copied: list[str] = []
        self._stopped = threading.Event()
        self._running: set[str] = set()
        self._ended = threading.Condition()

    def learn(self, planned: Plan) -> None:
        """These stages are going to be run."""
        self.specs |= planned.specs
        self.titles |= titles(planned)
        self.priorities |= priorities(planned.specs)

    def stop(self) -> None:
        """End every stage of this flow run, running or waiting. Returns when none uses the cluster any more, so that
        the caller can leave it, or after STOP_S."""
        self._stopped.set()
        with self._ended:
            self._ended.wait_for(lambda: not self._running, STOP_S)

    def parents(self, spec: StageSpec) -> list[str]:
        """Fingerprints of what must be finished before ``spec``: its inputs, and the measurements its gates ask for."""
        gated = self.config.gates.on_failure == "stop" and gates.is_gated(spec)
        measured = gates.measurements(self.specs, spec).values() if gated else ()
        return list(dict.fromkeys([*spec.inputs.values(), *measured]))

    def run(self, spec: StageSpec) -> StageResult:
        """The stage's result: from the store, else from the mirror, else by running it.

        Raises the S2DError that ended it.
        """
        self._go_on()
        lock = self.store.stages / f"{spec.id}.lock"
        if self.store.result(spec) is None:
            self.tell(spec, 0, spec.settings.get("steps", 1), "waiting")
            priority, needs = self.priorities[spec.fingerprint], stage_resources(spec)
            slot: AbstractContextManager[None] = self.slots(spec.id, priority, self._go_on, needs)
        else:
            slot = nullcontext()
        # The lock also when it is finished: whoever finished it may still be telling MLflow.
        with slot, exclusive(lock, self._go_on):
            if self.mirror:
                self.mirror.fetch(spec, self._stopped)
            result = self._finished(spec) or self._tracked(spec)
        if self.mirror:
            with exclusive(lock, self._go_on):  # not in the slot: copying needs no device
                self._copy(spec, self.mirror)
        return result

    def take_not_copied(self) -> list[str]:
        """What could not be copied to the mirror since this was last asked, in words."""
        taken, self._not_copied = self._not_copied, []
        return taken

    def _go_on(self) -> None:
        """Raises when the flow run is being stopped."""
        if self._stopped.is_set():
            raise StoppedError("the run was stopped; run it again to go on from the last checkpoints")

    def _finished(self, spec: StageSpec) -> StageResult | None:
        result = self.store.result(spec)
        if result is not None:
            self.cached.add(spec.fingerprint)
            self.tracker.link(spec, result, self.store.dir(spec))
            self.tell(spec, 1, 1, "cached")
        return result

    def _copy(self, spec: StageSpec, mirror: Mirror) -> None:
        """The stage is finished, so others may go on from it whatever becomes of its copy."""
        try:
            mirror.send(spec, self._stopped)
        except ResourceError as error:
            get_run_logger().warning("%s", error)
            self._not_copied.append(f"{error}; run again to copy what is missing")

    def _tracked(self, spec: StageSpec) -> StageResult:
        """``_execute``, known to ``stop`` as long as it lasts."""
        with self._ended:
            self._running.add(spec.id)
        try:
            self._go_on()
            with self.mirror.following(spec) if self.mirror else nullcontext():
                return self._execute(spec)
        finally:
            with self._ended:
                self._running.discard(spec.id)
                self._ended.notify_all()

    def _execute(self, spec: StageSpec) -> StageResult:
        gates.require(self.config.gates, self.store, self.specs, spec)
        logger, directory = get_run_logger(), self.store.dir(spec)
        logger.info("%s: running in %s", spec.id, directory)
        self.head.check()
        if self.config.launch.mode == "job":
            claim(directory)
        handle = launch(spec, self.config.launch)
        run_id = self.tracker.start(spec)
        try:
            self._follow(spec, handle, run_id)
            result = handle.result()
        except BaseException as error:
            if not self.head.lost:
                handle.cancel()
                # Neither a retry nor the end of the run may meet it alive.
                handle.wait(STOP_S if isinstance(error, StoppedError) else GRACE_S)
            self.tracker.fail(run_id)
            self.tell(spec, 0, 1, "failed")
            raise error
        self.tracker.finish(run_id, spec, result, directory)
        self.tell(spec, 1, 1, "done")
        logger.info("%s: done in %.1f s", spec.id, result.seconds)
        return result

    def _follow(self, spec: StageSpec, handle: Handle, run_id: str) -> None:
        """Poll, never block: a timeout or a cancellation must be able to come between."""
        logger, follower = get_run_logger(), StageFollower(self.store.dir(spec))
        steps, logged = spec.settings.get("steps", 0), 0.0
        launched, began = time.monotonic(), None  # a stage that waits for the cluster has not begun
        title = self.titles[spec.fingerprint]
        progress: Any = create_progress_artifact(0.0, key=_artifact_key(spec), description=title) if steps else None
        lines: list[dict[str, Any]] = []  # steps that MLflow does not know of yet: telling it is a transaction
        ended = False
        try:
            while not ended:
                ended = handle.wait(POLL_S)
                for line in follower.log():
                    logger.info("[%s] %s", spec.name, line)
                if lines := [*lines, *follower.metrics()]:
                    last = lines[-1]
                    self.tell(spec, last["step"], last["steps"], "running")
                    if ended or time.monotonic() - logged > LOG_EVERY_S:
                        logged = time.monotonic()
                        logger.info("[%s] %s", spec.name, describe(last))
                        update_progress_artifact(progress, 100.0 * last["step"] / last["steps"])
                        self.tracker.metrics(run_id, lines)
                        lines = []
                elif not logged and not ended:
                    self.tell(spec, 0, steps or 1, "starting" if began else "waiting")
                self._go_on()
                self.head.check()
                if began is None and self.store.started(spec):
                    began = time.monotonic()
                elif began is None and launched and time.monotonic() - launched > WAIT_SAID_S:
                    launched = 0.0
                    logger.info("%s: waiting until the cluster has %s free", spec.id, _needs(spec))
                if not ended and began and time.monotonic() - began > self.config.launch.stage_timeout_s:
                    raise StageError(
                        f"{spec.id}: not done within launch.stage_timeout_s = {self.config.launch.stage_timeout_s:g} "
                        "s; raise it, or run again to go on from the last checkpoint"
                    )
        finally:
            self.tracker.metrics(run_id, lines)


def worth_retrying(task: Any, run: TaskRun, state: State[Any]) -> bool:
    """A stage that said what is wrong says it again; a lost worker, job or cluster may come back."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, StageError | ResourceError) or not isinstance(error, S2DError | StoppedError)


@task(
    name="stage",
    task_run_name="{title}",
    cache_policy=NO_CACHE,  # the store decides what is finished, not Prefect's records
    persist_result=False,
    retry_condition_fn=worth_retrying,
    retry_delay_seconds=2,
)
def run_stage(title: str, spec: StageSpec, parents: list[StageResult], runner: Runner) -> StageResult:
    """Run one stage of the DAG; ``title`` names it in Prefect, and ``parents`` only draws the edges."""
    return runner.run(spec)


def _needs(spec: StageSpec) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in stage_resources(spec).items())


def _artifact_key(spec: StageSpec) -> str:
    return f"{spec.name}-{spec.fingerprint}".replace("_", "-")
