"""Pictures of what is claimed: every contrast as a row of a forest plot, and where labels are best spent."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from s2d_core.report.pictures.style import BLUE, VERDICT_COLOURS, WIDTH, Data, name_rows, row_figure


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


@dataclass(frozen=True)
class AllocationPoint:
    """One way to split a label budget: how many labels go upstream, to the teacher, and what that comes to.

    accuracy, interval: fractions, as in ``report.json``'s summaries. compute: training FLOPs, tokens or seconds.
    """

    upstream: int
    accuracy: float
    interval: tuple[float, float]
    compute: float


def allocation(points: Sequence[AllocationPoint], compute: str = "tokens") -> Figure:
    """Accuracy against labels spent upstream, and against compute; every point is annotated with its labels."""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    by_labels, by_compute = figure.subplots(1, 2, sharey=True)
    ordered = sorted(points, key=lambda point: point.upstream)
    means = [100 * point.accuracy for point in ordered]
    errors = [[abs(100 * (p.accuracy - p.interval[side])) for p in ordered] for side in (0, 1)]
    for axes, places in ((by_labels, [p.upstream for p in ordered]), (by_compute, [p.compute for p in ordered])):
        axes.errorbar(places, means, yerr=errors, fmt="o", color=BLUE, ms=5, elinewidth=1, capsize=2)
    by_labels.plot([p.upstream for p in ordered], means, color=BLUE, lw=1, alpha=0.5)
    for point, mean in zip(ordered, means, strict=True):
        by_compute.annotate(f"{point.upstream}", (point.compute, mean), (5, 4), textcoords="offset points", fontsize=7)
    by_labels.set_xlabel("labels spent upstream, on the teacher")
    by_labels.set_ylabel("avg@k, %")
    by_compute.set_xlabel(f"compute, {compute}; beside each point its labels upstream")
    return figure
