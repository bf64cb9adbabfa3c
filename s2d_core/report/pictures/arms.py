"""Pictures with a row for each arm: accuracy, accuracy by test set and by difficulty, labels, time."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from s2d_core.report.pictures.style import (
    ABOVE,
    BLUE,
    GREY,
    ORANGE,
    PALE,
    Data,
    arms_by_accuracy,
    colour_of,
    name_rows,
    row_figure,
)

PER_ROW = 4  # entries of a legend


def accuracy(data: Data, curves: Data) -> Figure | None:
    """Mean and interval of each arm, a dot for each seed; models on the way and failed arms below."""
    arms = arms_by_accuracy(data)
    on_the_way = list(data["baselines"])
    failed = [arm for arm in sorted(data["failed"]) if arm not in arms]
    if not arms and not on_the_way:
        return None
    figure, (axes,) = row_figure(len(arms) + len(on_the_way) + len(failed))
    for row, arm in enumerate(arms):
        summary = data["summary"][arm]
        low, high = (100 * bound for bound in summary["interval"])
        axes.plot((low, high), (row, row), color=BLUE, lw=2, alpha=0.5, solid_capstyle="butt")
        axes.plot(100 * summary["mean"], row, "o", color=BLUE, ms=5, zorder=3)
        seeds = [100 * run["accuracy"]["avg_at_k"] for run in data["arms"][arm]]
        if len(seeds) > 1:
            axes.plot(seeds, [row] * len(seeds), "|", color="black", ms=7, mew=0.8, zorder=4)
        lacking = len(data["failed"].get(arm, ()))
        note = f"{100 * summary['mean']:.1f}" + (f" ({lacking} seed{'s' * (lacking > 1)} failed)" if lacking else "")
        axes.annotate(note, (high, row), (5, 0), textcoords="offset points", va="center", fontsize=8)
    for row, model in enumerate(on_the_way, len(arms)):
        values = [100 * run["avg_at_k"] for run in data["baselines"][model]]
        axes.plot(values, [row] * len(values), "|", color=GREY, ms=7, mew=0.8)
        axes.plot(np.mean(values), row, "o", color=PALE, ms=5)
        text = f"{np.mean(values):.1f}"
        axes.annotate(text, (max(values), row), (8, 0), textcoords="offset points", va="center", color=GREY, fontsize=8)
    for row in range(len(arms) + len(on_the_way), len(arms) + len(on_the_way) + len(failed)):
        axes.annotate("failed", (0.01, row), xycoords=("axes fraction", "data"), va="center", color=ORANGE, fontsize=8)
    name_rows(axes, [*arms, *(f"({name})" for name in on_the_way), *failed])
    axes.margins(x=0.08)
    axes.set_xlabel("avg@k, %")
    return figure


def sets(data: Data, curves: Data) -> Figure | None:
    """Accuracy of each arm on each test set."""
    return _table(data, "sets", "test set", str)


def levels(data: Data, curves: Data) -> Figure | None:
    """Accuracy of each arm at each difficulty."""
    return _table(data, "levels", "difficulty level", int)


def _table(data: Data, groups: str, caption: str, order: Callable[[str], Any]) -> Figure | None:
    """avg@k of each arm in each group of problems, as a table that is also a picture."""
    arms = arms_by_accuracy(data)
    found = sorted({group for arm in arms for run in data["arms"][arm] for group in run[groups]}, key=order)
    if len(found) < 2:
        return None
    cells = np.array([[_share(data, arm, groups, group) for group in found] for arm in arms])
    figure, (axes,) = row_figure(len(arms), width=min(7.2, 2.6 + 0.8 * len(found)))
    axes.imshow(cells, aspect="auto", cmap="Blues", vmin=0, vmax=100)
    for (row, column), value in np.ndenumerate(cells):
        axes.text(
            column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color="white" if value > 60 else "black"
        )
    axes.set_xticks(range(len(found)), found)
    axes.grid(visible=False)
    axes.set_xlabel(caption)
    name_rows(axes, arms)
    return figure


def labels(data: Data, curves: Data) -> Figure | None:
    return _stacked(data, "labels", "labels looked at by each stage")


def time(data: Data, curves: Data) -> Figure | None:
    return _stacked(data, "seconds", "seconds (a stage that arms share is in each of them)")


def _stacked(data: Data, quantity: str, caption: str) -> Figure | None:
    """What each stage of an arm takes, mean over seeds, one bar an arm."""
    arms = arms_by_accuracy(data)
    if not arms:
        return None
    figure, (axes,) = row_figure(len(arms))
    seen: set[str] = set()
    for row, arm in enumerate(arms):
        left = 0.0
        for stages in zip(*(run["stages"] for run in data["arms"][arm]), strict=True):
            name, width = stages[0]["name"], float(np.mean([stage[quantity] for stage in stages]))
            if width:
                axes.barh(row, width, left=left, color=colour_of(name), label=None if name in seen else name)
                seen.add(name)
                left += width
    name_rows(axes, arms)
    axes.set_xlabel(caption)
    if seen:
        axes.legend(**ABOVE, ncols=min(len(seen), PER_ROW))
    return figure


def _share(data: Data, arm: str, groups: str, group: str) -> float:
    values = [run[groups][group] for run in data["arms"][arm] if group in run[groups]]
    return 100 * float(np.mean(values)) if values else float("nan")
