"""``launch(spec, config)`` starts a stage and returns at once; a Handle says when it is done and what came of it."""

import threading
from collections.abc import Callable
from typing import Protocol

from s2d_core.config.schema import LaunchConfig
from s2d_core.spec import StageResult, StageSpec
from s2d_core.store import CANCEL, Store


class Handle(Protocol):
    def wait(self, seconds: float) -> bool:
        """Wait at most ``seconds``; True when the stage has ended, well or not."""
        ...

    def result(self) -> StageResult:
        """The result of an ended stage. Raises the S2DError that ended it."""
        ...

    def cancel(self) -> None:
        """Stop the stage; its last checkpoint stays."""
        ...


def launch(spec: StageSpec, config: LaunchConfig) -> Handle:
    """Start ``spec`` the way ``config.mode`` says. Raises ResourceError when the cluster does not answer."""
    if config.mode == "job":
        from s2d_core.launch.job import RayJob

        return RayJob(spec, config)
    if config.mode == "ray":
        from s2d_core.launch.ray_task import RayTask

        return RayTask(spec)
    from s2d_core.run_stage import run_stage

    return InProcess(run_stage, spec)


class InProcess:
    """The stage in a daemon thread of this process. A thread cannot be interrupted, so a training stage is asked to
    stop by a file in its directory, read between steps; whatever still runs ends with the process."""

    def __init__(self, run: Callable[[StageSpec], StageResult], spec: StageSpec) -> None:
        self._cancel = Store(spec.execution["store"]).dir(spec) / CANCEL
        self._cancel.unlink(missing_ok=True)
        self._result: StageResult | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(run, spec), name=spec.id, daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def result(self) -> StageResult:
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def cancel(self) -> None:
        if self._thread.is_alive() and self._cancel.parent.is_dir():
            self._cancel.touch()

    def _run(self, run: Callable[[StageSpec], StageResult], spec: StageSpec) -> None:
        try:
            self._result = run(spec)
        except BaseException as error:
            self._error = error
