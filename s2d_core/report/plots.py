"""The report's pictures, drawn with matplotlib from ``report.json``'s data and the stages' metrics."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from s2d_core.report.data import Results

# Okabe–Ito: distinguishable with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666")
STAGE_COLOURS = {
    "pretrain_teacher": "#BBBBBB",
    "pretrain_student": "#DDDDDD",
    "teacher_rl": "#D55E00",
    "warmup": "#56B4E9",
    "opd": "#0072B2",
    "student_rl": "#E69F00",
}
Z95 = 1.96
ABOVE: Any = {"ncols": 3, "loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "fontsize": 8}


def draw_all(results: Results, data: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Draw every picture there is data for; caption → PNG, in reading order."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    style: Any = {
        "figure.dpi": 144,
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#E6E6E6",
        "axes.axisbelow": True,
        "legend.frameon": False,
    }
    pictures: dict[str, tuple[str, Callable[[Any], None]]] = {
        "accuracy": (
            "Accuracy on the test problems, 95 % intervals (over seeds where there are several, else over problems)",
            lambda axes: _accuracy(axes, data),
        ),
        "learning": ("Learning curves: reward of the sparse stages", lambda axes: _curves(axes, results, "reward")),
        "bridge": ("KL to the teacher across the bridge", lambda axes: _bridge(axes, results, data)),
        "levels": ("Accuracy by difficulty", lambda axes: _levels(axes, data)),
        "labels": ("Labels spent", lambda axes: _labels(axes, data)),
        "time": ("Time by stage", lambda axes: _time(axes, data)),
    }
    drawn: dict[str, Path] = {}
    with plt.rc_context(style):
        for name, (caption, draw) in pictures.items():
            figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
            draw(axes)
            if axes.has_data():
                path = folder / f"{name}.png"
                figure.savefig(path, metadata={"Software": ""})
                drawn[caption] = path
            plt.close(figure)
    return drawn


def _colour(names: list[str], name: str) -> str:
    return COLOURS[names.index(name) % len(COLOURS)]


def _accuracy(axes: Any, data: dict[str, Any]) -> None:
    """Bars with 95 % intervals, a dot for each seed."""
    rows = {**data["baselines"], **data["arms"]}
    shown = {name: runs for name, runs in rows.items() if runs}
    for position, (name, runs) in enumerate(shown.items()):
        values = [_accuracy_of(run) for run in runs]
        mean, error = _interval(values)
        is_arm = name in data["arms"]
        axes.bar(
            position,
            100 * mean,
            yerr=100 * error,
            color=_colour(list(data["arms"]), name) if is_arm else "#BDBDBD",
            error_kw={"elinewidth": 1, "capsize": 3},
        )
        axes.annotate(
            f"{100 * mean:.1f}", (position, 100 * (mean + error)), (0, 2), "data", "offset points", ha="center"
        )
        if len(values) > 1:
            axes.scatter([position] * len(values), [100 * v for v, _ in values], s=8, color="black", zorder=3)
    axes.set_xticks(range(len(shown)), [_pretty(name) for name in shown])
    axes.set_ylabel("avg@k, %")
    axes.grid(axis="x", visible=False)


def _interval(values: list[tuple[float, float]]) -> tuple[float, float]:
    """(mean, half-width of its 95 % interval) of (accuracy, standard error) a seed.

    Over seeds (Student's t) where there are several, since trainings differ by more than problems do; over the
    problems of the one training otherwise.
    """
    means = np.array([value for value, _ in values])
    if len(means) == 1:
        return float(means[0]), Z95 * values[0][1]
    spread = means.std(ddof=1) / np.sqrt(len(means))
    return float(means.mean()), float(student_t.ppf(0.975, len(means) - 1) * spread)


def _accuracy_of(run: dict[str, Any]) -> tuple[float, float]:
    accuracy = run.get("accuracy", run)
    return accuracy["avg_at_k"], accuracy["stderr"]


def _curves(axes: Any, results: Results, metric: str) -> None:
    names: list[str] = []
    for arm, seeds in results.plan.arms.items():
        for fingerprint in {f for plan in seeds.values() for f in plan.stages}:
            spec = results.plan.specs[fingerprint]
            values = [(line["step"], line[metric]) for line in results.steps(fingerprint) if metric in line]
            if not values:
                continue
            label = f"{spec.name} ({arm})"
            steps, heights = zip(*values, strict=True)
            colour = STAGE_COLOURS.get(spec.name, COLOURS[-1])
            axes.plot(steps, _smooth(heights), color=colour, label=None if label in names else label, lw=1.4)
            names.append(label)
    axes.set_xlabel("step")
    axes.set_ylabel(metric)
    if names:
        axes.legend()


def _bridge(axes: Any, results: Results, data: dict[str, Any]) -> None:
    """Per-step divergence of the dense stages end to end, and the measured C2 at their borders."""
    for arm, seeds in results.plan.arms.items():
        for index, (seed, plan) in enumerate(seeds.items()):
            dense = [f for f in plan.stages if results.plan.specs[f].name in ("warmup", "opd")]
            runs = [run for run in data["arms"].get(arm, []) if run["seed"] == seed]
            if not dense or not runs:
                continue
            borders, offset = [0], 0
            for fingerprint in dense:
                name = results.plan.specs[fingerprint].name
                lines = [line for line in results.steps(fingerprint) if "kl" in line]
                steps, values = [offset + line["step"] for line in lines], [line["kl"] for line in lines]
                label = {
                    "warmup": "warm-up: forward KL on teacher rollouts",
                    "opd": "OPD: reverse KL on student rollouts",
                }
                axes.plot(steps, values, color=STAGE_COLOURS[name], lw=1.2, label=None if index else label[name])
                offset += len(lines)
                borders.append(offset)
            conditions = runs[0]["conditions"]
            points = [conditions["c2_kl_before"], *([conditions["c2_kl_after"]] if len(dense) > 1 else [])]
            marks = [*points, conditions["c2_kl_final"]]
            axes.plot(
                borders, marks, "o", color="black", ms=4, zorder=3, label=None if index else "C2, measured on test"
            )
            for x, y in zip(borders, marks, strict=True):
                axes.annotate(f"{y:.3g}", (x, y), (4, 4), "data", "offset points")
    if axes.has_data():
        axes.set_yscale("log")
        axes.set_xlabel("bridge step")
        axes.set_ylabel("nats a token")
        axes.legend()


def _levels(axes: Any, data: dict[str, Any]) -> None:
    for name, runs in data["arms"].items():
        if runs and len(runs[0]["levels"]) > 1:
            levels = list(runs[0]["levels"])
            means = [100 * float(np.mean([run["levels"][level] for run in runs])) for level in levels]
            axes.plot(levels, means, "o-", color=_colour(list(data["arms"]), name), label=name)
    if axes.has_data():
        axes.set_xlabel("difficulty level")
        axes.set_ylabel("avg@k, %")
        axes.legend()


def _labels(axes: Any, data: dict[str, Any]) -> None:
    arms = {name: runs[0] for name, runs in data["arms"].items() if runs}
    seen: set[str] = set()
    for position, run in enumerate(arms.values()):
        left = 0
        for stage in run["stages"]:
            if stage["labels"]:
                label = None if stage["name"] in seen else stage["name"]
                axes.barh(position, stage["labels"], left=left, color=STAGE_COLOURS.get(stage["name"]), label=label)
                seen.add(stage["name"])
                left += stage["labels"]
    axes.set_yticks(range(len(arms)), list(arms))
    axes.set_xlabel("distinct labels looked at")
    if seen:
        axes.legend(**ABOVE)


def _time(axes: Any, data: dict[str, Any]) -> None:
    arms = {name: runs[0] for name, runs in data["arms"].items() if runs}
    seen: set[str] = set()
    for position, run in enumerate(arms.values()):
        left = 0.0
        for stage in run["stages"]:
            label = None if stage["name"] in seen else stage["name"]
            colour = STAGE_COLOURS.get(stage["name"], "#F2F2F2")
            axes.barh(position, stage["seconds"], left=left, color=colour, label=label)
            seen.add(stage["name"])
            left += stage["seconds"]
    axes.set_yticks(range(len(arms)), list(arms))
    axes.set_xlabel("seconds (shared stages are shown in every arm that uses them)")
    if seen:
        axes.legend(**ABOVE)


def _smooth(values: tuple[float, ...], window: int = 5) -> list[float]:
    return [float(np.mean(values[max(0, i - window + 1) : i + 1])) for i in range(len(values))]


def _pretty(name: str) -> str:
    known = {
        "cold": "cold\nstudent",
        "warm": "after\nwarm-up",
        "teacher": "RL'd\nteacher",
        "raw_teacher": "raw\nteacher",
    }
    return known.get(name, name.replace("_", "\n", 1))
