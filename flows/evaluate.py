"""Flow ``evaluate``: measure any Hugging Face checkpoints on a recipe's problems. Trains nothing."""

from typing import Annotated, Any, Literal

from prefect import flow
from prefect.states import State
from pydantic import Field

from flows import prepare
from flows.experiment import TASK_RUNNER, DryRun, Overrides, Recipe, command_line, comparison, experiment

Checkpoints = Annotated[list[str], Field(description="Hugging Face model folders or Hub ids")]
Split = Annotated[Literal["test", "validation"], Field(description="Problems to measure on")]


@flow(name="evaluate", task_runner=TASK_RUNNER, validate_parameters=True)  # type: ignore[arg-type]
def evaluate(
    checkpoints: Checkpoints,
    recipe: Recipe = "small_world",
    split: Split = "test",
    overrides: Overrides = [],  # noqa: B006
    dry_run: DryRun = False,
) -> State[Any]:
    """avg@k, pass@k and greedy accuracy of each checkpoint, as the recipe's ``evaluation`` says."""
    prepared = prepare.evaluate(recipe, checkpoints, split, overrides)
    command = command_line("evaluate", checkpoints=checkpoints, recipe=recipe, split=split, overrides=overrides)
    return experiment(prepared, dry_run, comparison(prepared, command))
