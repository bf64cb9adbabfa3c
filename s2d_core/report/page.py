"""Write a report folder: ``report.json``, ``curves.json``, PNG pictures and one self-contained ``report.html``."""

import base64
import json
from pathlib import Path
from typing import Any

from s2d_core.report.data import curves, failed_gates, headline
from s2d_core.report.pictures import draw_all
from s2d_core.report.results import Results
from s2d_core.store import write_json


def write_report(
    folder: Path, results: Results, data: dict[str, Any], configuration: dict[str, Any], shown: int
) -> Path:
    """Write everything into ``folder``; returns the page's path. ``shown``: problems in the side-by-side table."""
    from jinja2 import Environment, FileSystemLoader

    folder.mkdir(parents=True, exist_ok=True)
    lines = curves(results)
    write_json(folder / "report.json", data)
    write_json(folder / "curves.json", lines)
    # Completions are model output: everything is escaped, and the page runs no script.
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    ks = [run["accuracy"]["k"] for runs in data["arms"].values() for run in runs]
    page = environment.get_template("report.html").render(
        data=data,
        headline=headline(data),
        failed_gates=failed_gates(data),
        pictures=[(each, _data_uri(each.path)) for each in draw_all(data, lines, folder)],
        rollouts=side_by_side(results, shown),
        configuration=json.dumps(configuration, indent=1),
        k=ks[0] if ks else 0,
    )
    path = folder / "report.html"
    path.write_text(page)
    return path


def side_by_side(results: Results, count: int) -> list[dict[str, Any]]:
    """The first greedy completions of every complete arm (first seed) on the same problems."""
    complete = {
        arm: next(iter(seeds.values()))
        for arm, seeds in results.plan.arms.items()
        if results.complete(next(iter(seeds.values())))
    }
    rows: dict[str, dict[str, Any]] = {}
    for arm, plan in complete.items():
        greedy = [line for line in results.samples(plan.evaluations["final"]) if line["sample"] == -1]
        for line in greedy[:count]:
            row = rows.setdefault(
                line["problem_id"], {"prompt": line["prompt"], "answer": line["answer"], "completions": {}}
            )
            row["completions"][arm] = {"text": line["completion"], "correct": bool(line["correct"])}
    return list(rows.values())


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
