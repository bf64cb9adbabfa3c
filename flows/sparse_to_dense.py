"""Flow ``sparse_to_dense``: plan the DAG of arms × seeds, run what is not finished, compare, report."""

from typing import Annotated, Any

from prefect import flow
from prefect.states import State
from pydantic import Field

from flows import prepare
from flows.experiment import TASK_RUNNER, DryRun, Expect, Overrides, Recipe, Seeds, command_line, comparison, experiment
from flows.form import documented
from tasks.jobs import stop_owned_jobs

DefaultArms = Annotated[list[str] | None, Field(description="Arms to run; none: the recipe's default_arms")]


@flow(name="sparse_to_dense", task_runner=TASK_RUNNER, on_cancellation=[stop_owned_jobs])  # type: ignore[arg-type]
@documented
def sparse_to_dense(
    recipe: Recipe = "small_world",
    arms: DefaultArms = None,
    seeds: Seeds = [0],  # noqa: B006
    overrides: Overrides = [],  # noqa: B006
    expect: Expect = {},  # noqa: B006
    dry_run: DryRun = False,
) -> State[Any]:
    """Train every arm under every seed, measure them on the test problems, and say which claims hold.

    Stages that are finished, in this run or any earlier one, are not trained again.
    """
    prepared = prepare.sparse_to_dense(recipe, arms, seeds, overrides, expect)
    command = command_line("sparse_to_dense", recipe=recipe, seeds=seeds, arms=arms, overrides=overrides, expect=expect)
    return experiment(prepared, dry_run, comparison(prepared, command, expect))
