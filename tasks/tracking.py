"""MLflow's view of an experiment: one parent run, one nested run for each stage. Rebuilt from the store if lost."""

import json
import logging
import subprocess
import threading
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag

from s2d_core.config.schema import Config
from s2d_core.spec import StageResult, StageSpec
from tasks.locks import exclusive

BATCH = 1000  # metrics MLflow takes at once
PARAMETERS = 100  # parameters, likewise
AT_ONCE = 4  # threads inside MLflow
LARGEST_ARTIFACT = 64 << 20  # bytes; larger checkpoints are linked, not copied
PARENT = "mlflow.parentRunId"
RUN_NAME = "mlflow.runName"


logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # the first use tells of every migration


class Tracker:
    """Explicit run ids throughout: stages report from several threads."""

    def __init__(self, config: Config, seeds: list[int], arms: list[str]) -> None:
        self.name, store = config.name, Path(config.store).absolute()
        store.mkdir(parents=True, exist_ok=True)
        self.uri = config.tracking.uri or f"sqlite:///{store / 'mlflow.db'}"
        # A client makes the database where there is none; two that do so at once collide.
        with exclusive(store / "mlflow.lock"):
            self._client = cast(MlflowClient, _InTurn(MlflowClient(self.uri)))
            self._experiment = self._open(config.tracking.experiment, None if config.tracking.uri else store)
        tags = {RUN_NAME: config.name, "s2d.arms": ",".join(arms), "s2d.seeds": ",".join(map(str, seeds)), **_git()}
        self.parent = self._client.create_run(self._experiment, tags=tags).info.run_id
        self._client.log_dict(self.parent, config.model_dump(mode="json"), "config.json")

    @property
    def page(self) -> str | None:
        """Address of the parent run in MLflow's pages; None where no server shows them."""
        if not self.uri.startswith(("http://", "https://")):
            return None
        return f"{self.uri.rstrip('/')}/#/experiments/{self._experiment}/runs/{self.parent}"

    @property
    def report_page(self) -> str | None:
        """Address of the report, there when the parent run has ended; None likewise."""
        return self.page and f"{self.page}/artifacts/report/report.html"

    def _open(self, name: str, store: Path | None) -> str:
        """Id of the experiment, which is made when there is none; ``store`` keeps its artifacts, else the server."""
        if found := self._client.get_experiment_by_name(name):
            return str(found.experiment_id)
        artifacts = (store / "mlflow-artifacts").as_uri() if store else None
        return str(self._client.create_experiment(name, artifact_location=artifacts))

    def start(self, spec: StageSpec) -> str:
        """A nested run for a stage about to run, whose lock the caller holds; its id."""
        for lost in self._search(spec.fingerprint, "attributes.status = 'RUNNING'"):  # its process was killed
            self._client.set_terminated(lost.info.run_id, "KILLED")
        run = self._client.create_run(self._experiment, tags=self._tags(spec))
        parameters = [Param(name, value) for name, value in _flatten(spec.settings)]
        for start in range(0, len(parameters), PARAMETERS):
            self._client.log_batch(run.info.run_id, params=parameters[start : start + PARAMETERS])
        return run.info.run_id

    def metrics(self, run_id: str, lines: list[dict[str, Any]]) -> None:
        """Per-step metrics, as a stage's ``metrics.jsonl`` has them."""
        now = int(time.time() * 1000)
        entries = [
            Metric(name, float(value), now, int(line["step"]))
            for line in lines
            for name, value in line.items()
            if name not in ("step", "steps")
        ]
        for start in range(0, len(entries), BATCH):
            self._client.log_batch(run_id, metrics=entries[start : start + BATCH])

    def finish(self, run_id: str, spec: StageSpec, result: StageResult, directory: Path) -> None:
        """Final metrics, cost and artifacts; the run is finished."""
        now = int(time.time() * 1000)
        cost = {
            "labels": result.labels,
            "label_looks": result.label_looks,
            "prompts": result.prompts,
            "total_seconds": result.seconds,
            "device_seconds": result.device_seconds,
            **{f"total_tokens_{kind}": count for kind, count in result.tokens.items()},
        }
        values = {f"final/{name}": value for name, value in result.metrics.items()} | cost
        tags = [RunTag("s2d.directory", str(directory))]
        if result.model:
            tags.append(RunTag("s2d.checkpoint", str(directory / result.model)))
        entries = [Metric(name, float(value), now, 0) for name, value in values.items()]
        self._client.log_batch(run_id, metrics=entries, tags=tags)
        for name in ("spec.json", "samples.jsonl", "distance.json", "manifest.json", "model"):
            path = directory / name
            if path.is_dir() and sum(file.stat().st_size for file in path.rglob("*")) <= LARGEST_ARTIFACT:
                self._client.log_artifacts(run_id, str(path), "checkpoint")
            elif path.is_file():
                self._client.log_artifact(run_id, str(path))
        self._client.set_terminated(run_id, "FINISHED")

    def fail(self, run_id: str) -> None:
        self._client.set_terminated(run_id, "FAILED")

    def link(self, spec: StageSpec, result: StageResult, directory: Path) -> None:
        """Name a finished stage's run in this experiment's parent; make the run anew if MLflow has lost it."""
        run_id = self.find(spec.fingerprint)
        if run_id is None:
            run_id = self.start(spec)
            log = directory / "metrics.jsonl"
            if log.exists():
                self.metrics(run_id, [json.loads(line) for line in log.read_text().splitlines()])
            self.finish(run_id, spec, result, directory)
        self._client.set_tag(self.parent, f"s2d.cached.{spec.id}", run_id)

    def find(self, fingerprint: str) -> str | None:
        """Id of the finished run of a stage, by fingerprint."""
        runs = self._search(fingerprint, "attributes.status = 'FINISHED'")
        return runs[0].info.run_id if runs else None

    def close(self, report: Path | None, succeeded: bool, metrics: dict[str, float]) -> None:
        """End the parent run, with the report as its artifacts and the metrics of the whole."""
        now = int(time.time() * 1000)
        self._client.log_batch(self.parent, metrics=[Metric(name, value, now, 0) for name, value in metrics.items()])
        if report is not None:
            self._client.log_artifacts(self.parent, str(report), "report")
        self._client.set_terminated(self.parent, "FINISHED" if succeeded else "FAILED")

    def _search(self, fingerprint: str, condition: str) -> Sequence[Run]:
        return self._client.search_runs([self._experiment], f"tags.`s2d.fingerprint` = '{fingerprint}' and {condition}")

    def _tags(self, spec: StageSpec) -> dict[str, str]:
        parents = ",".join(f"{role}={fingerprint}" for role, fingerprint in spec.inputs.items())
        return {
            PARENT: self.parent,
            RUN_NAME: spec.id,
            "s2d.stage": spec.name,
            "s2d.kind": spec.kind,
            "s2d.fingerprint": spec.fingerprint,
            "s2d.parents": parents,
            "s2d.seed": str(spec.seed),
            **_git(),
        }


class _InTurn:
    """An MLflow client that serves few threads at once. A flow has one for each of its stages, hundreds where they are
    finished already; MLflow pools 15 connections to its database and ends who waits 30 s for one.
    """

    def __init__(self, client: MlflowClient) -> None:
        self._client, self._turns = client, threading.BoundedSemaphore(AT_ONCE)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*arguments: Any, **named: Any) -> Any:
            with self._turns:
                return method(*arguments, **named)

        return call


def _flatten(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    flat: list[tuple[str, str]] = []
    for name, value in settings.items():
        flat += _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", str(value))]
    return flat


@cache
def _git() -> dict[str, str]:
    """Commit of the code that runs, and whether it was changed since; nothing outside a checkout."""

    def ask(*arguments: str) -> str | None:
        try:
            root = Path(__file__).parents[1]
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    return {"git.commit": commit, "git.dirty": str(bool(ask("status", "--porcelain"))).lower()} if commit else {}
