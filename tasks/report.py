"""The report of a run: a folder of its own under the store, ``latest`` pointing at it, artifacts in Prefect."""

import base64
import os
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.runtime import flow_run

from s2d_core.config.schema import Config
from s2d_core.plan import Plan
from s2d_core.report.data import failed_gates, headline, report_data
from s2d_core.report.page import write_report
from s2d_core.report.results import Results
from s2d_core.store import Store

GATE_FAILED = "s2d.gate.failed"  # event of a flow run; its payload has a line for each gate


@task(name="report", cache_policy=NO_CACHE, persist_result=False)
def make_report(
    config: Config, plan: Plan, cached: set[str], command: str, failures: list[str]
) -> tuple[Path, dict[str, Any]]:
    """Write the report of whatever is finished; returns the page's path and the data of ``report.json``."""
    results = Results(plan, Store(config.store))
    data = report_data(results, cached, config, command, failures)
    if failed := failed_gates(data):
        for line in failed:
            get_run_logger().warning(line)
        emit_event(
            GATE_FAILED, resource={"prefect.resource.id": f"prefect.flow-run.{flow_run.id}"}, payload={"gates": failed}
        )
    root = Path(config.store).absolute()
    folder = root / "reports" / f"{config.name}-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
    page = write_report(folder, results, data, config.model_dump(mode="json"), config.evaluation.rollouts_shown)
    point(root / "latest", folder)
    _artifacts(data, folder)
    return root / "latest" / page.name, data


def accuracy_rows(data: dict[str, Any]) -> list[dict[str, Any]]:
    """One row an arm and seed, for people."""
    return [
        {
            "arm": arm,
            "seed": run["seed"],
            "avg@k %": f"{100 * run['accuracy']['avg_at_k']:.1f} ± {196 * run['accuracy']['stderr']:.1f}",
            "greedy %": f"{100 * run['accuracy']['greedy']:.1f}",
            "pass@k %": f"{100 * run['accuracy']['pass_at_k']:.1f}",
            "maj@k %": f"{100 * run['accuracy']['maj_at_k']:.1f}",
            "labels": run["labels"],
            "seconds": f"{run['seconds']:.0f}",
        }
        for arm, runs in data["arms"].items()
        for run in runs
    ]


def arm_rows(data: dict[str, Any]) -> list[dict[str, Any]]:
    """One row an arm, for a terminal: means over its seeds; ± is half of the 95 % interval."""
    return [
        {
            "arm": arm,
            "seeds": over["seeds"],
            "avg@k %": f"{100 * over['mean']:.1f} ± {100 * (over['interval'][1] - over['mean']):.1f}",
            "greedy %": f"{100 * fmean(run['accuracy']['greedy'] for run in runs):.1f}",
            "pass@k %": f"{100 * fmean(run['accuracy']['pass_at_k'] for run in runs):.1f}",
            "labels": f"{fmean(run['labels'] for run in runs):.0f}",
            "seconds": f"{fmean(run['seconds'] for run in runs):.0f}",
        }
        for arm, over in data["summary"].items()
        for runs in [data["arms"][arm]]
    ]


def contrast_rows(data: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a contrast."""
    return [
        {
            "claim": each["name"],
            "difference (95 % interval)": "{:+.1f} ({:+.1f} to {:+.1f})".format(
                *(100 * value for value in (each["difference"], *each["interval"]))
            ),
            "verdict": each["verdict"],
            "paper": "" if each["paper"] is None else f"{each['paper']:+.1f}",
        }
        for each in data["contrasts"]
    ]


def point(link: Path, folder: Path) -> None:
    """Make ``link`` point at ``folder``; at no moment is there none."""
    temporary = link.with_name(f".latest.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.relative_to(link.parent))
    temporary.rename(link)


def _artifacts(data: dict[str, Any], folder: Path) -> None:
    create_table_artifact(accuracy_rows(data), key="accuracy", description=headline(data))
    if data["contrasts"]:
        create_table_artifact(contrast_rows(data), key="contrasts", description="Claims, in points of avg@k")
    pictures = [
        f"![{path.stem}](data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()})"
        for path in sorted(folder.glob("*.png"))
    ]
    text = f"# {headline(data)}\n\nReport: `{folder / 'report.html'}`\n\n" + "\n\n".join(pictures)
    create_markdown_artifact(text, key="report", description="Findings and pictures")
