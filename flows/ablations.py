"""Flow ``ablations``: every arm of a recipe under several seeds, and arms that a person adds in the form."""

from typing import Annotated, Any

from prefect import flow
from prefect.states import State
from pydantic import Field

from flows import prepare
from flows.experiment import (
    TASK_RUNNER,
    Arms,
    DryRun,
    Expect,
    Overrides,
    Recipe,
    Seeds,
    command_line,
    comparison,
    experiment,
)
from flows.form import documented
from s2d_core.config.stages import ArmConfig
from tasks.jobs import stop_owned_jobs

ExtraArms = Annotated[dict[str, ArmConfig], Field(description="Arms of your own by name, run beside the others")]


@flow(name="ablations", task_runner=TASK_RUNNER, on_cancellation=[stop_owned_jobs])  # type: ignore[arg-type]
@documented
def ablations(
    recipe: Recipe = "small_world",
    arms: Arms = None,
    seeds: Seeds = [0, 1, 2, 3, 4],  # noqa: B006
    overrides: Overrides = [],  # noqa: B006
    extra_arms: ExtraArms = {},  # noqa: B006
    expect: Expect = {},  # noqa: B006
    dry_run: DryRun = False,
) -> State[Any]:
    """Train the union of all arms under all seeds: what two arms share is trained once, what fails leaves the rest."""
    prepared = prepare.ablations(recipe, arms, seeds, overrides, extra_arms, expect)
    defined = [f"arms.{name}={arm.model_dump_json()}" for name, arm in extra_arms.items()]
    command = command_line(
        "ablations",
        recipe=recipe,
        seeds=seeds,
        arms=arms and [*arms, *extra_arms],
        overrides=[*overrides, *defined],
        expect=expect,
    )
    return experiment(prepared, dry_run, comparison(prepared, command, expect))
