"""The models on the way to the deployed students, each named by the stage that made it."""

from collections.abc import Mapping
from typing import Any

from s2d_core.report.results import Results

MEASURED = (
    "avg_at_k",
    "k",
    "stderr",
    "greedy",
    "greedy_stderr",
    "pass_at_k",
    "pass_at_k_stderr",
    "maj_at_k",
    "maj_at_k_stderr",
)


def accuracies(metrics: Mapping[str, float]) -> dict[str, Any]:
    """Those of an evaluation's metrics that say how often a model is right."""
    values: dict[str, Any] = {name: metrics[name] for name in MEASURED}
    return values | {"k": int(values["k"])}


def baselines(results: Results) -> dict[str, list[dict[str, Any]]]:
    """Accuracy by seed of every model that was measured and that no arm deploys.

    Two arms' teachers are one entry when they are one model. Of several models made by stages of one name (a teacher
    trained on all labels, on half of them, from the student's base) each is told apart by its first arm:
    ``teacher_rl``, ``teacher_rl of half_bridge``.
    """
    plan = results.plan
    deployed = {arm.model for seeds in plan.arms.values() for arm in seeds.values()}
    by_models: dict[tuple[str, ...], tuple[str, list[dict[str, Any]]]] = {}
    taken: set[str] = set()
    for name, seeds in plan.arms.items():
        for role in dict.fromkeys(role for arm in seeds.values() for role in arm.evaluations):
            measured = {seed: arm.evaluations[role] for seed, arm in seeds.items() if role in arm.evaluations}
            models = tuple(plan.specs[f].inputs["policy"] for f in measured.values())
            rows = [
                {"seed": seed} | accuracies(results.stages[f].metrics)
                for seed, f in measured.items()
                if f in results.stages
            ]
            if models in by_models or deployed & set(models) or not rows:
                continue
            made_by = plan.specs[models[0]].name
            title = f"{made_by} of {name}" if made_by in taken else made_by
            taken.add(made_by)
            by_models[models] = title, rows
    return dict(by_models.values())
