"""Flow ``evaluate``: measure Hugging Face checkpoints and finished arms on a recipe's problems. Trains nothing."""

from typing import Annotated, Any, Literal

from prefect import flow
from prefect.states import State
from pydantic import Field

from flows import prepare
from flows.experiment import TASK_RUNNER, DryRun, Overrides, Recipe, Seeds, command_line, comparison, experiment
from flows.form import documented
from tasks.jobs import stop_owned_jobs

FinishedArms = Annotated[list[str], Field(description="Arms of the recipe that are trained already")]
Checkpoints = Annotated[list[str], Field(description="Hugging Face model folders or Hub ids")]
Split = Annotated[Literal["test", "validation"], Field(description="Problems to measure on")]


@flow(name="evaluate", task_runner=TASK_RUNNER, on_cancellation=[stop_owned_jobs])  # type: ignore[arg-type]
@documented
def evaluate(
    checkpoints: Checkpoints = [],  # noqa: B006
    arms: FinishedArms = [],  # noqa: B006
    seeds: Seeds = [0],  # noqa: B006
    recipe: Recipe = "small_world",
    split: Split = "test",
    overrides: Overrides = [],  # noqa: B006
    dry_run: DryRun = False,
) -> State[Any]:
    """avg@k, pass@k and greedy accuracy of each model, as the recipe's ``evaluation`` says."""
    prepared = prepare.evaluate(recipe, checkpoints, arms, seeds, split, overrides)
    command = command_line(
        "evaluate",
        recipe=recipe,
        checkpoints=checkpoints,
        arms=arms,
        seeds=seeds if arms else [],
        split=split,
        overrides=overrides,
    )
    return experiment(prepared, dry_run, comparison(prepared, command))
