"""What all pictures share: colours, type, rows of arms, grids of small panels."""

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

Data = dict[str, Any]

# Okabe–Ito: distinguishable with any colour vision.
BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, GREY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#666666",
)
PALE = "#BDBDBD"
COLOURS = (BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, GREY)  # of things without a colour of their own
STAGE_COLOURS = {
    "pretrain_teacher": "#BBBBBB",
    "pretrain_student": "#DDDDDD",
    "teacher_rl": ORANGE,
    "warmup": SKY,
    "opd": BLUE,
    "student_rl": YELLOW,
}
LONGEST_NAME = 44
VERDICT_COLOURS = {"holds": GREEN, "does not hold": ORANGE, "undecided": GREY}
STYLE: Any = {
    "figure.dpi": 144,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
}
WIDTH = 7.2
ROW = 0.26  # inches that a row of text needs
ABOVE: Any = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.2}
MOST_PANELS_A_ROW = 4


def colour_of(stage: str) -> str:
    return STAGE_COLOURS.get(stage, PINK)


def arms_by_accuracy(data: Data) -> list[str]:
    """Complete arms, the most accurate first."""
    return sorted(data["summary"], key=lambda arm: (-data["summary"][arm]["mean"], arm))


def row_figure(rows: int, columns: int = 1, width: float = WIDTH) -> tuple[Figure, Any]:
    """A figure for ``rows`` rows of text; its axes as an array [columns], sharing the rows, the first row on top."""
    figure = Figure(figsize=(width, 0.9 + ROW * max(rows, 2)), layout="constrained")
    axes = figure.subplots(1, columns, sharey=True, squeeze=False)[0]
    for each in axes:
        each.set_ylim(rows - 0.4, -0.6)
        each.grid(axis="y", visible=False)
    return figure, axes


def name_rows(axes: Any, names: list[str]) -> None:
    """A name a row; of one that would leave the axes no room (a checkpoint's path), its end."""
    axes.set_yticks(
        range(len(names)), [name if len(name) <= LONGEST_NAME else f"…{name[-LONGEST_NAME:]}" for name in names]
    )
    axes.tick_params(axis="y", length=0)


def panel_figure(titles: list[str]) -> tuple[Figure, Any]:
    """A grid of small panels with shared axes, one for each title; their axes in a list."""
    columns = min(MOST_PANELS_A_ROW, len(titles))
    rows = math.ceil(len(titles) / columns)
    width = max(WIDTH * columns / MOST_PANELS_A_ROW, 5.4)
    figure = Figure(figsize=(width, 0.8 + (2.6 if columns < 3 else 1.5) * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, title in zip(grid, titles, strict=False):
        axes.set_title(title, fontsize=8, loc="left")
        axes.tick_params(labelsize=7, labelbottom=True)
    for axes in grid[len(titles) :]:
        axes.set_visible(False)
    return figure, list(grid[: len(titles)])


def legend_below(figure: Figure, axes: Any) -> None:
    """One legend for all panels, with the labels of ``axes``."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def smooth(values: list[float], window: int = 5) -> list[float]:
    return [float(np.mean(values[max(0, i - window + 1) : i + 1])) for i in range(len(values))]
