"""Flow ``tune``: choose learning rates on the validation split, with as many trials for every stage of every arm."""

from collections.abc import Sequence
from typing import Annotated, Any

from prefect import flow
from prefect.states import State
from pydantic import Field

from flows import prepare
from flows.experiment import (
    TASK_RUNNER,
    Arms,
    DryRun,
    Outcome,
    Overrides,
    Recipe,
    Seeds,
    announce,
    command_line,
    only_planned,
    session,
)
from flows.form import documented, refusing
from s2d_core.plan import Plan
from s2d_core.report.tuning import overlay, tuning_summary
from s2d_core.store import Store
from tasks.jobs import stop_owned_jobs
from tasks.summary import make_summary, publish_summary

Factors = Annotated[list[float], Field(description="Multiples of the recipe's learning rate that are tried first")]
Trials = Annotated[int, Field(description="Learning rates tried for each stage of each arm")]
Stages = Annotated[
    list[str] | None,
    Field(description="Stages whose rates are searched, the others keeping the recipe's; empty: all of each arm's"),
]


@flow(name="tune", task_runner=TASK_RUNNER, on_cancellation=[stop_owned_jobs])  # type: ignore[arg-type]
@refusing
@documented
def tune(
    recipe: Recipe = "small_world",
    arms: Arms = None,
    factors: Factors = [0.5, 1.0, 2.0],  # noqa: B006
    trials: Trials = 5,
    seeds: Seeds = [0, 1],  # noqa: B006
    stages: Stages = None,
    overrides: Overrides = [],  # noqa: B006
    dry_run: DryRun = False,
) -> State[Any]:
    """Search the learning rate of every stage of every arm, and leave a recipe with the chosen ones.

    All arms' next trials are one DAG, so that they share stages and run side by side; finished ones are found again.
    """
    prepared = prepare.tune(recipe, arms, factors, trials, seeds, overrides, stages)
    config, planned, tuners = prepared.config, prepared.plan, prepared.tuners
    why = announce(planned, config)
    if dry_run:
        return only_planned(planned, why)
    command = command_line(
        "tune",
        recipe=recipe,
        arms=arms,
        factors=factors,
        trials=trials,
        seeds=seeds,
        stages=stages,
        overrides=overrides,
    )
    failed: list[str] = []
    with session(config, [tuner.name for tuner in tuners], seeds) as running:
        while True:
            failed += running.run(planned, why)
            found = accuracies(planned, running.store)
            for tuner in tuners:
                tuner.tell(found)
            if not any(tuner.ask() for tuner in tuners):
                break
            planned = prepare.plan_trials(config, tuners, seeds, prepared.sources)
            why = announce(planned, config)
        summary = tuning_summary(tuners, trials, seeds, config.name)
        recipe_file = {"tuned.yaml": overlay(tuners, trials, config.name, recipe, command)}
        page = make_summary(config, "tuning", summary, command, recipe_file)
        publish_summary("tuning", summary, page, recipe_file, running.runner.tracker.report_page)
        outcome = Outcome(page, [summary.rows], " ".join(summary.findings), failed)
        running.close(outcome)
    return outcome.state


def accuracies(planned: Plan, store: Store) -> dict[str, float | None]:
    """Mean avg@k over seeds of each arm's deployed model; None where a seed is missing."""
    return {
        arm: _mean([_accuracy(planned, store, each.evaluations["final"]) for each in seeds.values()])
        for arm, seeds in planned.arms.items()
    }


def _accuracy(planned: Plan, store: Store, fingerprint: str) -> float | None:
    result = store.result(planned.specs[fingerprint])
    return None if result is None else result.metrics["avg_at_k"]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
