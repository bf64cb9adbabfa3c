"""Accuracy against the share of labels that goes upstream: pictures, and an answer in words for each label count."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from s2d_core.allocation import Point, Scale
from s2d_core.evaluation.comparison import compare
from s2d_core.report.pictures.style import COLOURS
from s2d_core.report.results import Results
from s2d_core.report.summary import Picture, Summary, mean_interval

SCALES: dict[Scale, str] = {
    "steps": "Every arm takes the same number of updates, with the same number of sequences in each, whatever its "
    "labels: the teacher's RL has its share of the RL updates, the student's RL the rest, the bridge its own; without "
    "anything upstream the student's RL takes all of them.",
    "epochs": "Every stage passes over its labels as often as the recipe's passes over the whole pool, so that updates "
    "grow with labels; the bridge costs updates on top.",
}
AXES = {"labels_looked_at": "labels", "tokens": "tokens of the trained stages", "device_seconds": "device seconds"}


def allocation_summary(results: Results, points: Sequence[Point], scale: Scale, split: str) -> Summary:
    """What is finished of ``points``; those without a finished seed are named among the findings."""
    entries = [entry for point in points if (entry := _entry(results, point)) is not None]
    answers = [_answer(results, [e for e in entries if e["labels"] == n]) for n in _counts(entries)]
    findings = [answer["words"] for answer in answers] or ["No arm is finished yet."]
    missing = [point.arm for point in points if all(point.arm != entry["arm"] for entry in entries)]
    if missing:
        findings.append(f"Not finished: {', '.join(missing)}.")
    notes = [
        SCALES[scale],
        f"Accuracy is avg@k on the {split} problems. Intervals are 95 %: of a mean over seeds, where there are several "
        "(Student's t), else over problems; of a difference, paired by seed and problem. The "
        "best share is picked on the problems it is measured on, which flatters it a little.",
        "Cost is that of the stages after pretraining.",
    ]
    return Summary(
        title="Where do the labels go?",
        findings=findings,
        notes=notes,
        rows=[_row(entry) for entry in entries],
        data={"scale": scale, "split": split, "points": entries, "answers": answers, "missing": missing},
        pictures=[
            Picture(
                "share", "Accuracy by share of labels upstream, 95 % intervals", 1, lambda a: _shares(a[0], entries)
            ),
            Picture(
                "pareto",
                "Accuracy against what it costs; the line joins what nothing cheaper reaches",
                len(AXES),
                lambda axes: _pareto(axes, entries),
            ),
        ]
        if entries
        else [],
    )


def _entry(results: Results, point: Point) -> dict[str, Any] | None:
    """Accuracy and cost of a point, means over its finished seeds; None when there is none."""
    arms = {seed: arm for seed, arm in results.plan.arms[point.arm].items() if results.complete(arm)}
    if not arms:
        return None
    measured = [results.stages[arm.evaluations["final"]].metrics for arm in arms.values()]
    accuracies = [metrics["avg_at_k"] for metrics in measured]
    mean, half = mean_interval(accuracies, [metrics["stderr"] for metrics in measured])
    stages = [
        [results.stages[f] for f in arm.stages if "problems" in results.plan.specs[f].settings] for arm in arms.values()
    ]
    return {
        "arm": point.arm,
        "share": point.share,
        "labels": point.labels,
        "upstream": point.upstream,
        "seeds": list(arms),
        "accuracies": accuracies,
        "accuracy": mean,
        "half_width": half,
        "labels_looked_at": float(np.mean([results.labels(arm) for arm in arms.values()])),
        "tokens": float(np.mean([sum(sum(stage.tokens.values()) for stage in each) for each in stages])),
        "device_seconds": float(np.mean([sum(stage.device_seconds for stage in each) for each in stages])),
    }


def _row(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "labels": entry["labels"],
        "share upstream": f"{entry['share']:g}",
        "upstream": entry["upstream"],
        "downstream": entry["labels"] - entry["upstream"],
        "avg@k %": f"{100 * entry['accuracy']:.1f} ± {100 * entry['half_width']:.1f}",
        "seeds": len(entry["seeds"]),
        "labels looked at": f"{entry['labels_looked_at']:.0f}",
        "tokens": f"{entry['tokens']:.0f}",
        "device seconds": f"{entry['device_seconds']:.1f}",
    }


def _counts(entries: Sequence[dict[str, Any]]) -> list[int]:
    return sorted({entry["labels"] for entry in entries})


def _answer(results: Results, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """The best share of one number of labels, what it gains over each other one, and all that in words."""
    best = max(entries, key=lambda entry: entry["accuracy"])
    others = []
    for entry in entries:
        seeds = [seed for seed in best["seeds"] if seed in entry["seeds"]]
        if entry is best or not seeds:
            continue
        found = compare(results.per_problem(best["arm"], seeds), results.per_problem(entry["arm"], seeds))
        others.append(
            {
                "share": entry["share"],
                "difference": found.mean,
                "interval": list(found.interval),
                "seeds": found.seeds,
                "better": found.verdict() == "holds",
            }
        )
    words = [
        f"With {best['labels']} labels: {_where(best)} "
        f"({100 * best['accuracy']:.1f} ± {100 * best['half_width']:.1f} %)."
    ]
    if better := [_gain(other) for other in others if other["better"]]:
        words.append(f"That beats {'; '.join(better)}.")
    if alike := [_gain(other) for other in others if not other["better"]]:
        words.append(f"It cannot be told apart from {'; '.join(alike)}.")
    return {"labels": best["labels"], "share": best["share"], "others": others, "words": " ".join(words)}


def _where(entry: dict[str, Any]) -> str:
    upstream, downstream = entry["upstream"], entry["labels"] - entry["upstream"]
    if not upstream:
        return "all of them go to RL on the student itself"
    if not downstream:
        return "all of them go upstream, to the teacher's RL and the bridge"
    return f"{upstream} go upstream, to the teacher's RL and the bridge, and {downstream} to the student's own RL"


def _gain(other: dict[str, Any]) -> str:
    low, high = (100 * bound for bound in other["interval"])
    seeds = f"{other['seeds']} seed" + ("s" if other["seeds"] > 1 else "")
    figures = f"{100 * other['difference']:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}, {seeds}"
    return f"{100 * other['share']:g} % upstream ({figures})"


def _shares(axes: Any, entries: Sequence[dict[str, Any]]) -> None:
    for index, labels in enumerate(_counts(entries)):
        shown = sorted((e for e in entries if e["labels"] == labels), key=lambda entry: entry["share"])
        axes.errorbar(
            [entry["share"] for entry in shown],
            [100 * entry["accuracy"] for entry in shown],
            [100 * entry["half_width"] for entry in shown],
            fmt="o-",
            ms=4,
            lw=1.4,
            elinewidth=1,
            capsize=3,
            color=COLOURS[index % len(COLOURS)],
            label=f"{labels} labels",
        )
    axes.set_xlabel("share of labels upstream (0: RL on the student; 1: teacher RL and the bridge)")
    axes.set_ylabel("avg@k, %")
    axes.legend()


def _pareto(axes: Sequence[Any], entries: Sequence[dict[str, Any]]) -> None:
    shares = sorted({entry["share"] for entry in entries})
    for panel, (cost, name) in zip(axes, AXES.items(), strict=True):
        for index, share in enumerate(shares):
            shown = [entry for entry in entries if entry["share"] == share]
            points = [entry[cost] for entry in shown], [100 * entry["accuracy"] for entry in shown]
            panel.scatter(*points, s=18, color=COLOURS[index % len(COLOURS)], label=f"share {share:g}")
        front = frontier([(entry[cost], 100 * entry["accuracy"]) for entry in entries])
        panel.plot(*zip(*front, strict=True), color="black", lw=0.8, zorder=0)
        panel.set_xlabel(name)
    axes[0].set_ylabel("avg@k, %")
    axes[0].legend(fontsize=7)


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those (cost, accuracy) that nothing as cheap or cheaper reaches, by rising cost."""
    front: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or accuracy > front[-1][1]:
            front.append((cost, accuracy))
    return front
