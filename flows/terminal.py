"""The flow in a terminal: one progress line a stage, then the table and where the report is."""

import importlib
import logging
import sys
import threading
import time
from typing import Any

from prefect.logging.handlers import PrefectConsoleHandler
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from flows.experiment import Outcome, listening
from s2d_core.errors import S2DError
from s2d_core.spec import StageSpec
from tasks.report import latest

PLAIN_EVERY_S = 10.0


class ProgressBars:
    """Bars where somebody looks, a line now and then where nobody does."""

    def __init__(self, console: Console) -> None:
        self.live = console.is_terminal
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
        )
        self.progress = Progress(*columns, console=console, disable=not self.live)
        self._bars: dict[str, TaskID] = {}
        self._said: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def __call__(self, spec: StageSpec, done: int, steps: int, state: str) -> None:
        with self._lock:
            if self.live:
                self._bar(spec, done, steps, state)
            elif state != "waiting":
                self._line(spec, done, steps, state)

    def _bar(self, spec: StageSpec, done: int, steps: int, state: str) -> None:
        if state in ("waiting", "cached"):
            return
        if spec.id not in self._bars:
            self._bars[spec.id] = self.progress.add_task(f"{spec.name}-{spec.fingerprint[:6]}", state=state)
        completed = steps if state == "done" else done
        self.progress.update(self._bars[spec.id], total=steps, completed=completed, state=state)

    def _line(self, spec: StageSpec, done: int, steps: int, state: str) -> None:
        said, at = self._said.get(spec.id, ("", 0.0))
        if state == said and time.monotonic() - at < PLAIN_EVERY_S:
            return
        self._said[spec.id] = (state, time.monotonic())
        where = f" {done}/{steps}" if state == "running" and steps > 1 else ""
        print(f"  {spec.name}-{spec.fingerprint[:6]}: {state}{where}", flush=True)


def run_in_terminal(name: str, parameters: dict[str, Any]) -> int:
    """Run the flow of that name; 0 when all went well.

    Prefect's own console output is off; its server still gets the logs.
    """
    console, flow = Console(), getattr(importlib.import_module(f"flows.{name}"), name)
    bars = ProgressBars(console)
    silence_console()
    with bars.progress, listening(bars):
        state = flow(**parameters, return_state=True)
    outcome: Any = state.result(raise_on_failure=False)
    if isinstance(outcome, S2DError):
        raise outcome
    if isinstance(outcome, BaseException):
        print(f"error: {type(outcome).__name__}: {outcome}", file=sys.stderr)
        return 1
    show(console, outcome)
    return 0 if state.is_completed() else 1


def silence_console() -> None:
    """Keep Prefect's log lines out of the progress bars."""
    for logger in (logging.getLogger(name) for name in ("", *logging.root.manager.loggerDict)):
        for handler in [each for each in logger.handlers if isinstance(each, PrefectConsoleHandler)]:
            logger.removeHandler(handler)


def show(console: Console, outcome: Outcome) -> None:
    """The tables, the finding, what failed, and the path of the report."""
    for rows in filter(None, outcome.tables):
        table = Table(*(Column(name, overflow="fold") for name in rows[0]))
        for row in rows:
            table.add_row(*map(str, row.values()))
        console.print(table)
    console.print(outcome.finding, highlight=False, soft_wrap=True)
    for message in outcome.failed:
        print(f"error: {message}", file=sys.stderr)
    print(f"report: {latest(outcome.report)}", flush=True)
