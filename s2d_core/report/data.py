"""What the report says, as data: ``report.json``. Reads the plan and the stage directories, nothing else."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from s2d_core.evaluation.bootstrap import compare
from s2d_core.plan import ArmPlan, Plan
from s2d_core.spec import StageResult
from s2d_core.store import Store

# Claims that a report judges when both arms are there: name, the arm that should win, the arm it should beat.
CONTRASTS = (("full > direct_grpo", "full", "direct_grpo"),)


class Results:
    """Finished stages of a plan, and the arms that are complete."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan, self.store = plan, store
        found = {fingerprint: store.result(spec) for fingerprint, spec in plan.specs.items()}
        self.stages: dict[str, StageResult] = {f: result for f, result in found.items() if result is not None}

    def complete(self, arm: ArmPlan) -> bool:
        return {*arm.stages, *arm.evaluations.values()} <= self.stages.keys()

    def directory(self, fingerprint: str) -> Path:
        return self.store.dir(self.plan.specs[fingerprint])

    def samples(self, fingerprint: str) -> list[dict[str, Any]]:
        """The lines of an evaluation's ``samples.jsonl``."""
        return _lines(self.directory(fingerprint) / "samples.jsonl")

    def steps(self, fingerprint: str) -> list[dict[str, Any]]:
        """The lines of a stage's ``metrics.jsonl``."""
        return _lines(self.directory(fingerprint) / "metrics.jsonl")

    def labels(self, arm: ArmPlan) -> int:
        """Distinct labels that the arm's stages looked at."""
        entries = [entry for f in arm.stages for entry in _lines(self.directory(f) / "ledger.jsonl")]
        return len({problem for entry in entries for problem in entry["problems"]})

    def per_problem(self, arm: str, seeds: list[int]) -> np.ndarray:
        """[seeds, problems] share of right samples of the deployed student."""
        rows = []
        for seed in seeds:
            right: dict[str, list[int]] = defaultdict(list)
            for line in self.samples(self.plan.arms[arm][seed].evaluations["final"]):
                if line["sample"] >= 0:
                    right[line["problem_id"]].append(line["correct"])
            rows.append([float(np.mean(right[problem])) for problem in sorted(right)])
        return np.array(rows)


def report_data(results: Results, cached: set[str], name: str, command: str) -> dict[str, Any]:
    """The content of ``report.json``. Only ``seconds`` and ``cached`` differ between two runs of one experiment."""
    plan = results.plan
    arms = {
        arm: [_arm(results, seed, each, cached) for seed, each in seeds.items() if results.complete(each)]
        for arm, seeds in plan.arms.items()
    }
    failed = {
        arm: [seed for seed, each in seeds.items() if not results.complete(each)] for arm, seeds in plan.arms.items()
    }
    return {
        "name": name,
        "command": command,
        "arms": arms,
        "failed": {arm: seeds for arm, seeds in failed.items() if seeds},
        "baselines": _baselines(results),
        "contrasts": _contrasts(results),
    }


def headline(data: dict[str, Any]) -> str:
    """The finding in one sentence, as strong as the interval allows."""
    if not data["contrasts"]:
        return "No two arms of a contrast are complete yet."
    contrast = data["contrasts"][0]
    first, second = contrast["arms"]
    low, high = (100 * bound for bound in contrast["interval"])
    seeds = f"{contrast['seeds']} seed" + ("s" if contrast["seeds"] > 1 else "")
    figures = f"{100 * contrast['difference']:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}, {seeds}"
    words = {
        "holds": f"{first} beats {second} at equal labels",
        "does not hold": f"{first} does not beat {second}",
        "undecided": f"Whether {first} beats {second} is undecided",
    }
    return f"{words[contrast['verdict']]}: {figures}."


def _arm(results: Results, seed: int, arm: ArmPlan, cached: set[str]) -> dict[str, Any]:
    stages = [results.stages[f] for f in arm.stages]
    metrics = results.stages[arm.evaluations["final"]].metrics
    accuracy = {name: metrics[name] for name in ("avg_at_k", "k", "stderr", "greedy", "pass_at_k")}
    return {
        "seed": seed,
        "accuracy": accuracy | {"k": int(accuracy["k"])},
        "labels": results.labels(arm),
        "prompts": max((stage.prompts for stage in stages), default=0),
        "tokens": sum(sum(stage.tokens.values()) for stage in stages),
        "seconds": round(sum(stage.seconds for stage in stages), 3),
        "stages": [
            {
                "name": stage.name,
                "fingerprint": stage.fingerprint,
                "cached": stage.fingerprint in cached,
                "seconds": round(stage.seconds, 3),
                "labels": stage.labels,
                "tokens": sum(stage.tokens.values()),
            }
            for stage in stages
        ],
        "conditions": _conditions(results, arm),
        "levels": _levels(results.samples(arm.evaluations["final"])),
    }


def _conditions(results: Results, arm: ArmPlan) -> dict[str, float | None]:
    """C1: what RL gained the teacher (avg@k on test). C2: KL(student‖teacher) a token on student rollouts."""

    def metric(role: str, name: str) -> float | None:
        fingerprint = arm.evaluations.get(role)
        return results.stages[fingerprint].metrics.get(name) if fingerprint else None

    trained, raw = metric("teacher", "avg_at_k"), metric("raw_teacher", "avg_at_k")
    bridged = "cold" in arm.evaluations
    return {
        "c1_gain": None if trained is None or raw is None else trained - raw,
        "c2_kl_before": metric("cold", "kl_to_teacher"),
        "c2_kl_after": metric("warm", "kl_to_teacher"),
        "c2_kl_final": metric("final", "kl_to_teacher") if bridged else None,
    }


def _baselines(results: Results) -> dict[str, list[dict[str, Any]]]:
    """Accuracy of the models on the way: cold student, raw and trained teacher, student after the warm-up."""
    found: dict[str, list[dict[str, Any]]] = {}
    for seeds in results.plan.arms.values():
        for seed, arm in seeds.items():
            for role, fingerprint in arm.evaluations.items():
                if role == "final" or fingerprint not in results.stages:
                    continue
                rows = found.setdefault(role, [])
                if all(row["seed"] != seed for row in rows):
                    metrics = results.stages[fingerprint].metrics
                    rows.append({"seed": seed} | {n: metrics[n] for n in ("avg_at_k", "stderr", "greedy", "pass_at_k")})
    return found


def _contrasts(results: Results) -> list[dict[str, Any]]:
    found = []
    for name, first, second in CONTRASTS:
        seeds = [results.plan.arms.get(arm, {}) for arm in (first, second)]
        shared = [s for s in seeds[0] if s in seeds[1] and all(results.complete(each[s]) for each in seeds)]
        if not shared:
            continue
        comparison = compare(results.per_problem(first, shared), results.per_problem(second, shared))
        found.append(
            {
                "name": name,
                "arms": [first, second],
                "difference": comparison.difference,
                "interval": list(comparison.interval),
                "seeds": comparison.seeds,
                "verdict": comparison.verdict,
            }
        )
    return found


def _levels(samples: list[dict[str, Any]]) -> dict[str, float]:
    """Accuracy of the samples by difficulty level."""
    levels: dict[int, list[int]] = defaultdict(list)
    for line in samples:
        if line["sample"] >= 0:
            levels[line["level"]].append(line["correct"])
    return {str(level): float(np.mean(levels[level])) for level in sorted(levels)}


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
