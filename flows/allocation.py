"""Flow ``allocation``: which share of the labels should go upstream, for each number of labels?"""

from typing import Annotated, Any, Literal

from prefect import flow
from prefect.states import State
from pydantic import Field

from flows import prepare
from flows.experiment import (
    TASK_RUNNER,
    DryRun,
    Outcome,
    Overrides,
    Recipe,
    Seeds,
    command_line,
    experiment,
)
from flows.form import documented
from s2d_core.report.allocation import allocation_summary
from s2d_core.report.results import Results
from s2d_core.store import Store
from tasks.jobs import stop_owned_jobs
from tasks.summary import make_summary

Shares = Annotated[list[float], Field(description="Shares of the labels upstream; 0: RL on the student, 1: the bridge")]
Counts = Annotated[list[int] | None, Field(description="Numbers of labels; none: 64, 128, ... and all there are")]
Scale = Annotated[Literal["steps", "epochs"], Field(description="steps: the same updates for every arm; or epochs")]
Upstream = Annotated[str, Field(description="Arm of the recipe whose stages share 1 has")]
Downstream = Annotated[str, Field(description="Arm of the recipe whose stages share 0 has")]
Mixed = Annotated[str | None, Field(description="Arm whose stages are those between; none: upstream's, downstream's")]


@flow(name="allocation", task_runner=TASK_RUNNER, on_cancellation=[stop_owned_jobs])  # type: ignore[arg-type]
@documented
def allocation(
    recipe: Recipe = "small_world",
    shares: Shares = [0.0, 0.25, 0.5, 0.75, 1.0],  # noqa: B006
    label_counts: Counts = None,
    seeds: Seeds = [0, 1, 2],  # noqa: B006
    overrides: Overrides = [],  # noqa: B006
    scale: Scale = "steps",
    upstream: Upstream = "full",
    downstream: Downstream = "direct_grpo",
    mixed: Mixed = None,
    dry_run: DryRun = False,
) -> State[Any]:
    """Train every share of every number of labels, and say in words where the labels should go."""
    prepared = prepare.allocation(recipe, shares, label_counts, seeds, overrides, scale, upstream, downstream, mixed)
    config = prepared.config
    command = command_line(
        "allocation",
        recipe=recipe,
        shares=shares,
        label_counts=label_counts,
        seeds=seeds,
        scale=scale,
        upstream=upstream,
        downstream=downstream,
        mixed=mixed,
        overrides=overrides,
    )

    def report(cached: set[str], failed: list[str]) -> Outcome:
        results = Results(prepared.plan, Store(config.store))
        summary = allocation_summary(results, prepared.points, scale, config.evaluation.split)
        page = make_summary(config, "allocation", summary, command, {})
        return Outcome(page, [summary.rows], " ".join(summary.findings), failed)

    return experiment(prepared, dry_run, report)
