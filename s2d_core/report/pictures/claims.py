"""Pictures of what is claimed: contrasts as a forest plot, accuracy against compute, where labels are best spent."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from s2d_core.report.pictures.style import (
    ABOVE,
    BLUE,
    ORANGE,
    VERDICT_COLOURS,
    WIDTH,
    Data,
    arms_by_accuracy,
    name_rows,
    row_figure,
)


def forest(data: Data, curves: Data) -> Figure | None:
    """Difference and interval of each contrast, coloured by verdict, beside the paper's figure."""
    contrasts = data["contrasts"]
    if not contrasts:
        return None
    figure, (axes,) = row_figure(len(contrasts))
    axes.axvline(0, color="black", lw=0.8)
    for row, contrast in enumerate(contrasts):
        low, high = (100 * bound for bound in contrast["interval"])
        colour = VERDICT_COLOURS[contrast["verdict"]]
        axes.plot((low, high), (row, row), color=colour, lw=2, solid_capstyle="butt")
        axes.plot(100 * contrast["difference"], row, "o", color=colour, ms=5, zorder=3)
        if contrast["paper"] is not None:
            axes.plot(contrast["paper"], row, "D", mfc="white", mec="black", ms=5, zorder=2)
    name_rows(axes, [contrast["name"] for contrast in contrasts])
    axes.set_xlabel("difference in avg@k, points (95 % interval)")
    marks = [Line2D([], [], color=colour, marker="o", ms=5, label=name) for name, colour in VERDICT_COLOURS.items()]
    marks.append(Line2D([], [], color="black", marker="D", mfc="white", ms=5, ls="", label="in the paper"))
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks))
    return figure


def compute(data: Data, curves: Data) -> Figure | None:
    """Accuracy of each arm against its training compute; those that never read a teacher are joined."""
    arms = arms_by_accuracy(data)
    if len(arms) < 2:
        return None
    figure = Figure(figsize=(WIDTH, 4.0), layout="constrained")
    axes = figure.subplots()
    alone = []
    for arm in arms:
        place, summary = _flops(data, arm), data["summary"][arm]
        mean = 100 * summary["mean"]
        bridged = any(run["conditions"]["bridge"] for run in data["arms"][arm])
        colour = BLUE if bridged else ORANGE
        if not bridged:
            alone.append((place, mean))
        axes.plot((place, place), [100 * bound for bound in summary["interval"]], color=colour, lw=1.5, alpha=0.4)
        axes.plot(place, mean, "o", color=colour, ms=4.5)
        axes.annotate(arm, (place, mean), (5, 3), textcoords="offset points", fontsize=7)
    if alone:
        axes.plot(*zip(*sorted(alone), strict=True), color=ORANGE, lw=1, ls="--", label="no teacher")
        axes.legend(**ABOVE)
    axes.margins(x=0.15)
    axes.set_xlabel("training compute after the base models, floating-point operations")
    axes.set_ylabel("avg@k, %")
    return figure


def allocation(data: Data, curves: Data) -> Figure | None:
    """Accuracy against the share of the labels that is spent upstream, on the teacher."""
    points = sorted(data["allocation"], key=lambda point: point["upstream"] / max(point["labels"], 1))
    if len(points) < 3:
        return None
    figure = Figure(figsize=(5.4, 3.2), layout="constrained")
    axes = figure.subplots()
    places = [100 * point["upstream"] / max(point["labels"], 1) for point in points]
    summaries = [data["summary"][point["arm"]] for point in points]
    means = [100 * summary["mean"] for summary in summaries]
    errors = [[abs(100 * (each["mean"] - each["interval"][side])) for each in summaries] for side in (0, 1)]
    axes.errorbar(places, means, yerr=errors, fmt="o-", color=BLUE, ms=5, lw=1, capsize=2)
    for point, place, mean in zip(points, places, means, strict=True):
        axes.annotate(point["arm"], (place, mean), (5, 4), textcoords="offset points", fontsize=7)
    axes.margins(x=0.15)
    axes.set_xlabel("labels spent upstream, % of all")
    axes.set_ylabel("avg@k, %")
    return figure


def _flops(data: Data, arm: str) -> float:
    return float(np.mean([run["flops"] for run in data["arms"][arm]]))
