"""``python -m flows``: run ``sparse_to_dense`` from a terminal, with a progress bar and one clear message on error."""

import argparse
import signal
import sys
from typing import NoReturn


def main() -> int:
    arguments = parse()
    print(f"sparse-to-dense: {arguments.recipe}, seeds {' '.join(map(str, arguments.seeds))}", flush=True)
    from s2d_core.errors import S2DError

    signal.signal(signal.SIGTERM, stop)
    try:
        return run(arguments)
    except S2DError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoints", file=sys.stderr)
        return 130


def stop(number: int, frame: object) -> NoReturn:
    """SIGTERM ends a run as Ctrl-C does."""
    raise KeyboardInterrupt


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m flows", description="Train, compare and report the arms of a recipe."
    )
    parser.add_argument("--recipe", default="small_world", help="shipped recipe or YAML file (default: small_world)")
    parser.add_argument("--arms", nargs="+", help="arms to run (default: all of the recipe's)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="default: 0")
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", dest="overrides", help="configuration")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and train nothing")
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> int:
    """Plan without any server; then, unless that was all, run the flow."""
    from s2d_core import fairness
    from s2d_core.config.compose import load_config
    from s2d_core.plan import plan
    from s2d_core.preflight import preflight
    from s2d_core.store import Store
    from tasks.planning import describe, reasons

    config = load_config(arguments.recipe, arguments.overrides)
    planned = plan(config, arguments.arms, arguments.seeds, preflight(config))
    fairness.check(config, planned)
    print(describe(planned, config, reasons(planned, Store(config.store))), flush=True)
    if arguments.dry_run:
        return 0
    from flows.terminal import run_in_terminal

    return run_in_terminal(arguments)


if __name__ == "__main__":
    sys.exit(main())
