"""Pictures of training and of the bridge: rewards, divergence, and conditions C1 and C2 as measured."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from s2d_core.report.pictures.style import (
    BLUE,
    GREY,
    ORANGE,
    SKY,
    Data,
    arms_by_accuracy,
    colour_of,
    legend_below,
    name_rows,
    panel_figure,
    row_figure,
    smooth,
)

WHERE = {"before": ("cold", GREY), "after": ("after warm-up", SKY), "final": ("at the end", BLUE)}
COLUMNS = {
    "kl": "KL, nats a token",
    "overlap": "overlap of top-8",
    "student_entropy": "entropy, nats",
    "gradient_share": "gradient in top 1 %",
}


def conditions(data: Data, curves: Data) -> Figure | None:
    """C1's gain and C2's measurements, a row for each arm with a bridge, means over its seeds."""
    arms = _bridged(data)
    if not arms:
        return None
    figure, axes = row_figure(len(arms), columns=1 + len(COLUMNS), width=9.6)
    for row, arm in enumerate(arms):
        runs = [run["conditions"] for run in data["arms"][arm]]
        for run in runs:
            if run["c1_gain"] is not None:
                axes[0].plot([100 * bound for bound in run["c1_interval"]], (row, row), color=ORANGE, lw=2, alpha=0.35)
                axes[0].plot(100 * run["c1_gain"], row, "o", color=ORANGE, ms=3.5)
        for panel, name in zip(axes[1:], COLUMNS, strict=True):
            for where, (label, colour) in WHERE.items():
                if values := [run["bridge"][where][name] for run in runs if where in run["bridge"]]:
                    panel.plot(np.mean(values), row, "o", color=colour, ms=5, label=label if row == 0 else None)
        teachers = [run["bridge"]["final"]["teacher_entropy"] for run in runs if "final" in run["bridge"]]
        axes[3].plot(np.mean(teachers), row, "x", color="black", ms=4, label="teacher's" if row == 0 else None)
    name_rows(axes[0], arms)
    axes[0].axvline(0, color="black", lw=0.8)
    axes[0].set_xlabel("C1: RL's gain, points")
    for panel, caption in zip(axes[1:], COLUMNS.values(), strict=True):
        panel.set_xlabel(caption)
        panel.set_xlim(left=0)
    legend_below(figure, axes[3])
    return figure


def positions(data: Data, curves: Data) -> Figure | None:
    """KL to the teacher by position in the student's completions, means over seeds."""
    arms = _bridged(data)
    if not arms:
        return None
    figure, panels = panel_figure(arms)
    for axes, arm in zip(panels, arms, strict=True):
        for where, (label, colour) in WHERE.items():
            tables = [run["conditions"]["bridge"].get(where) for run in data["arms"][arm]]
            by_position: dict[int, list[float]] = {}
            for table in filter(None, tables):
                for position, value in zip(table["by_position"]["position"], table["by_position"]["kl"], strict=True):
                    by_position.setdefault(position, []).append(value)
            if by_position:
                places = sorted(by_position)
                axes.plot(places, [np.mean(by_position[p]) for p in places], color=colour, lw=1.3, label=label)
        axes.set_yscale("log")
    fullest = max(panels, key=lambda axes: len(axes.lines))
    legend_below(figure, fullest)
    figure.supylabel("KL(student‖teacher), nats", fontsize=8)
    figure.supxlabel("position in the completion", fontsize=8)
    return figure


def learning(data: Data, curves: Data) -> Figure | None:
    """Reward by step of every sparse stage, thin lines for seeds; a panel for each arm's, shared ones drawn once."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for arm in arms_by_accuracy(data):
        for name, fingerprints in _by_stage(data, arm, curves, "reward").items():
            groups.setdefault((name, *fingerprints), []).append(arm)
    if not groups:
        return None
    ordered = sorted(groups.items(), key=lambda group: (group[0][0] != "teacher_rl", group[0][0]))
    figure, panels = panel_figure([_title(key[0], arms) for key, arms in ordered])
    for axes, ((name, *fingerprints), _) in zip(panels, ordered, strict=True):
        _seeds(axes, [curves[f] for f in fingerprints], colour_of(name))
    figure.supylabel("mean reward of the rollouts", fontsize=8)
    figure.supxlabel("step", fontsize=8)
    return figure


def bridge(data: Data, curves: Data) -> Figure | None:
    """Divergence by step of the dense stages, one after another; dots: KL(student‖teacher) measured between them."""
    arms = [arm for arm in _bridged(data) if _by_stage(data, arm, curves, "kl")]
    if not arms:
        return None
    figure, panels = panel_figure(arms)
    for axes, arm in zip(panels, arms, strict=True):
        offset, borders = 0, [0]
        for name, fingerprints in _by_stage(data, arm, curves, "kl").items():
            stage = [curves[f] for f in fingerprints]
            _seeds(axes, stage, colour_of(name), offset)
            offset += max(curve["steps"][-1] for curve in stage)
            borders.append(offset)
        runs = [run["conditions"] for run in data["arms"][arm]]
        measured = [[run[f"c2_kl_{where}"] for run in runs if run[f"c2_kl_{where}"] is not None] for where in WHERE]
        marks = [float(np.mean(values)) for values in measured if values]
        places = borders if len(marks) == len(borders) else [borders[0], borders[-1]]
        axes.plot(places[: len(marks)], marks[: len(places)], "o", color="black", ms=3.5, zorder=3)
        axes.set_yscale("log")
    figure.supylabel("nats a token", fontsize=8)
    figure.supxlabel("dense step", fontsize=8)
    return figure


def _bridged(data: Data) -> list[str]:
    return [arm for arm in arms_by_accuracy(data) if any(run["conditions"]["bridge"] for run in data["arms"][arm])]


def _by_stage(data: Data, arm: str, curves: Data, metric: str) -> dict[str, list[str]]:
    """Stage → fingerprints with a curve of ``metric``, one a seed, in the arm's order."""
    found: dict[str, list[str]] = {}
    for run in data["arms"][arm]:
        for stage in run["stages"]:
            if curves.get(stage["fingerprint"], {}).get("metric") == metric:
                found.setdefault(stage["name"], []).append(stage["fingerprint"])
    return found


def _seeds(axes: Any, stage: list[Data], colour: str, offset: int = 0) -> None:
    """The curve of each seed, thin, and their mean over the steps that all of them logged."""
    for curve in stage:
        places = [offset + step for step in curve["steps"]]
        axes.plot(places, smooth(curve["values"]), color=colour, lw=0.6, alpha=0.5 if len(stage) > 1 else 1.0)
    if len(stage) > 1:
        by_step = [dict(zip(curve["steps"], smooth(curve["values"]), strict=True)) for curve in stage]
        shared = sorted(set.intersection(*(set(each) for each in by_step)))
        means = [np.mean([each[step] for each in by_step]) for step in shared]
        axes.plot([offset + step for step in shared], means, color=colour, lw=1.8)


def _title(stage: str, arms: list[str]) -> str:
    return f"{stage}: {arms[0]}" + (f" +{len(arms) - 1}" if len(arms) > 1 else "")
