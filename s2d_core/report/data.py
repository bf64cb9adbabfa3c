"""What the report says, as data: ``report.json``. Reads the plan and the stage directories, nothing else."""

from collections.abc import Sequence
from typing import Any

from s2d_core import fairness
from s2d_core.config.schema import Config, ContrastConfig
from s2d_core.evaluation.comparison import compare, estimate
from s2d_core.plan import ArmPlan
from s2d_core.report.baselines import accuracies, baselines
from s2d_core.report.compute import training_flops
from s2d_core.report.conditions import conditions
from s2d_core.report.results import Results


def report_data(
    results: Results, cached: set[str], config: Config, command: str, failures: Sequence[str] = ()
) -> dict[str, Any]:
    """The content of ``report.json``. Only ``seconds`` and ``cached`` differ between two runs of one experiment.

    failures: what went wrong, in words. Arms that lack a stage are in ``failed``, contrasts that lack an arm in
    ``unjudged``.
    """
    arms = {
        arm: [_run(results, seed, each, cached, config) for seed, each in seeds.items() if results.complete(each)]
        for arm, seeds in results.plan.arms.items()
    }
    failed = {
        arm: [seed for seed, each in seeds.items() if not results.complete(each)]
        for arm, seeds in results.plan.arms.items()
    }
    contrasts = [(each, results.complete_seeds(*each.arms)) for each in config.contrasts]
    return {
        "name": config.name,
        "command": command,
        "arms": arms,
        "summary": {arm: _summary(results, arm) for arm, runs in arms.items() if runs},
        "failed": {arm: seeds for arm, seeds in failed.items() if seeds},
        "failures": list(failures),
        "baselines": baselines(results),
        "contrasts": [_contrast(results, config, each, seeds, arms) for each, seeds in contrasts if seeds],
        "unjudged": [
            {"name": each.name, "arms": list(each.arms)}
            for each, seeds in contrasts
            if not seeds and all(arm in arms for arm in each.arms)
        ],
        "allocation": [_allocated(results, arm) for arm in config.allocation if results.complete_seeds(arm)],
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
    labels = "" if any(each["quantity"] == "labels" for each in contrast["differs"]) else " at equal labels"
    words = {
        "holds": f"{first} beats {second}{labels}",
        "does not hold": f"{first} does not beat {second}",
        "undecided": f"Whether {first} beats {second} is undecided",
    }
    return f"{words[contrast['verdict']]}: {figures}."


def failed_gates(data: dict[str, Any]) -> list[str]:
    """A line for each failed gate of each arm and seed."""
    return [
        f"{arm}, seed {run['seed']}: {gate['name']} failed: {gate['detail']}"
        for arm, runs in data["arms"].items()
        for run in runs
        for gate in run["conditions"]["gates"]
        if not gate["passed"]
    ]


def curves(results: Results) -> dict[str, dict[str, Any]]:
    """Reward or divergence by step of every trained stage, by fingerprint: the content of ``curves.json``."""
    found: dict[str, dict[str, Any]] = {}
    for fingerprint in results.stages:
        lines = results.steps(fingerprint)
        for metric in ("reward", "kl"):
            if points := [(line["step"], line[metric]) for line in lines if metric in line]:
                steps, values = ([point[axis] for point in points] for axis in (0, 1))
                name = results.plan.specs[fingerprint].name
                found[fingerprint] = {"stage": name, "metric": metric, "steps": steps, "values": values}
    return found


def late_gain(results: Results, fingerprint: str) -> float | None:
    """Mean reward in the last quarter of a stage's steps less that of the quarter before: has it converged?

    None for stages without a reward, and for fewer than 8 steps.
    """
    rewards = [line["reward"] for line in results.steps(fingerprint) if "reward" in line]
    quarter = len(rewards) // 4
    if quarter < 2:
        return None
    return (sum(rewards[-quarter:]) - sum(rewards[-2 * quarter : -quarter])) / quarter


def _run(results: Results, seed: int, arm: ArmPlan, cached: set[str], config: Config) -> dict[str, Any]:
    stages = [results.stages[f] for f in arm.stages]
    metrics = results.stages[arm.evaluations["final"]].metrics
    return {
        "seed": seed,
        "accuracy": accuracies(metrics),
        "labels": results.labels(arm),
        "prompts": max((stage.prompts for stage in stages), default=0),
        "tokens": sum(sum(stage.tokens.values()) for stage in stages),
        "flops": sum(training_flops(results, stage.fingerprint) for stage in stages),
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
        "conditions": conditions(results, arm, config.gates),
        "levels": results.per_level(arm.evaluations["final"]),
        "sets": results.per_set(arm.evaluations["final"]),
        "late_gain": {results.stages[f].name: gain for f in arm.stages if (gain := late_gain(results, f)) is not None},
    }


def _summary(results: Results, arm: str) -> dict[str, Any]:
    """avg@k over the arm's finished seeds."""
    over = estimate(results.per_problem(arm, results.complete_seeds(arm)))
    return {"mean": over.mean, "interval": list(over.interval), "seeds": over.seeds}


def _allocated(results: Results, arm: str) -> dict[str, Any]:
    """How many labels the arm spends upstream, on the teacher, and in all."""
    plan = results.plan.arms[arm][results.complete_seeds(arm)[0]]
    return {"arm": arm, "upstream": results.labels(plan, trains="teacher"), "labels": results.labels(plan)}


def _mean_flops(runs: list[dict[str, Any]], seeds: list[int]) -> float:
    values = [run["flops"] for run in runs if run["seed"] in seeds]
    return float(sum(values) / len(values))


def _contrast(
    results: Results, config: Config, contrast: ContrastConfig, seeds: list[int], runs: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    first, second = (results.per_problem(arm, seeds) for arm in contrast.arms)
    compared = compare(first, second)
    return {
        "name": contrast.name,
        "arms": list(contrast.arms),
        "difference": compared.mean,
        "interval": list(compared.interval),
        "seeds": compared.seeds,
        "verdict": compared.verdict(),
        "paper": contrast.paper,
        "margin": contrast.margin,
        "margin_verdict": None if contrast.margin is None else compared.verdict(contrast.margin / 100),
        "reason": contrast.reason,
        "flops": [_mean_flops(runs[arm], seeds) for arm in contrast.arms],
        "differs": [
            {"quantity": each.quantity, "named": each.named, "text": str(each)}
            for each in fairness.differences(config, results.plan, contrast)
        ],
    }
