"""A small report: what was found in words, one table, pictures. ``NAME.json``, ``NAME.csv``, PNGs and ``NAME.html``.

Knows nothing of what the table is about.
"""

import base64
import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from s2d_core.store import write_json

Z95 = 1.96
STYLE: Any = {
    "figure.dpi": 144,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Picture:
    """``draw`` fills a figure of ``panels`` axes side by side."""

    name: str
    caption: str
    panels: int
    draw: Callable[[Sequence[Any]], None]


@dataclass(frozen=True)
class Summary:
    """findings: sentences, the first is the headline. notes: how to read them. rows: the table. data: all of it."""

    title: str
    findings: list[str]
    notes: list[str]
    rows: list[dict[str, Any]]
    data: dict[str, Any]
    pictures: list[Picture]


def write_summary(folder: Path, name: str, summary: Summary, command: str) -> Path:
    """Write everything into ``folder``; returns the page's path."""
    from jinja2 import Environment, FileSystemLoader

    folder.mkdir(parents=True, exist_ok=True)
    said = {"title": summary.title, "command": command, "findings": summary.findings, "notes": summary.notes}
    write_json(folder / f"{name}.json", said | summary.data)
    with (folder / f"{name}.csv").open("w", newline="") as file:
        if summary.rows:
            writer = csv.DictWriter(file, list(summary.rows[0]))
            writer.writeheader()
            writer.writerows(summary.rows)
    drawn = {picture.caption: _draw(folder, picture) for picture in summary.pictures}
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    uris = {
        caption: "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
        for caption, path in drawn.items()
    }
    page = folder / f"{name}.html"
    page.write_text(
        environment.get_template("summary.html").render(summary=summary, command=command, pictures=uris),
    )
    return page


def mean_interval(values: Sequence[float], standard_errors: Sequence[float]) -> tuple[float, float]:
    """(mean, half-width of its 95 % interval) of one accuracy and standard error a seed.

    Over seeds (Student's t) where there are several; over the problems of the one training otherwise.
    """
    means = np.array(values)
    if len(means) == 1:
        return float(means[0]), Z95 * standard_errors[0]
    spread = means.std(ddof=1) / np.sqrt(len(means))
    return float(means.mean()), float(student_t.ppf(0.975, len(means) - 1) * spread)


def _draw(folder: Path, picture: Picture) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context(STYLE):
        width = 6.4 if picture.panels == 1 else 3.6 * picture.panels
        figure, axes = plt.subplots(1, picture.panels, figsize=(width, 3.6), layout="constrained", squeeze=False)
        picture.draw(list(axes[0]))
        path = folder / f"{picture.name}.png"
        figure.savefig(path, metadata={"Software": ""})
        plt.close(figure)
    return path
