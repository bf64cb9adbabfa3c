"""Flow ``prune``: what a store can do without, and its removal. Also ``python -m flows.prune``."""

import argparse
import sys
from typing import Annotated, Any

from prefect import flow
from prefect.states import Completed, State
from pydantic import Field

from flows import prepare
from flows.experiment import Overrides
from s2d_core.errors import S2DError
from tasks.prune import prune_store, removable, remove, would_remove

Recipes = Annotated[list[str], Field(description="Recipes whose stages are kept, of every arm", min_length=1)]
KeptSeeds = Annotated[list[int], Field(description="Seeds whose stages are kept", min_length=1)]
Days = Annotated[float, Field(description="Stages and reports are kept for as many days after the last write", ge=0)]
OnlySay = Annotated[bool, Field(description="Say what would be removed, and remove nothing")]


@flow(name="prune")
def prune(
    recipes: Recipes = ["small_world"],  # noqa: B006
    seeds: KeptSeeds = [0, 1, 2, 3, 4],  # noqa: B006
    overrides: Overrides = [],  # noqa: B006
    older_than_days: Days = 30.0,
    dry_run: OnlySay = True,
) -> State[Any]:
    """Remove old stages that no kept plan needs, checkpoints of finished stages, and old reports.

    Says first what it would remove, as a table with sizes; removes only with ``dry_run`` off. A stage that a run
    holds is left alone.
    """
    store, kept = prepare.prune(recipes, seeds, overrides)
    return Completed(message=prune_store(store, kept, older_than_days, dry_run))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.prune", description="What a store can do without.")
    parser.add_argument("--recipes", nargs="+", default=["small_world"], help="kept, every arm (default: small_world)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="kept (default: 0 1 2 3 4)")
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", dest="overrides", help="configuration")
    parser.add_argument("--older-than-days", type=float, default=30.0, metavar="DAYS", help="default: 30")
    parser.add_argument("--remove", action="store_true", help="remove it; otherwise only say what would be removed")
    arguments = parser.parse_args()
    try:
        store, kept = prepare.prune(arguments.recipes, arguments.seeds, arguments.overrides)
        found = removable(store, kept, arguments.older_than_days)
        for item in found:
            print("  ".join(f"{value:>11}" for value in item.row.values()))
        print(remove(found, store) if arguments.remove else would_remove(found, store))
    except S2DError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
