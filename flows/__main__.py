"""``python -m flows [FLOW]``: run a flow from a terminal, with a progress bar and one clear message on error."""

import signal
import sys
from typing import Any, NoReturn

from flows.arguments import parse


def main() -> int:
    name, arguments = parse(sys.argv[1:])
    parameters = vars(arguments)
    dry_run = parameters.pop("dry_run")
    seeds = f", seeds {' '.join(map(str, arguments.seeds))}" if "seeds" in parameters else ""
    print(f"{name.replace('_', '-')}: {arguments.recipe}{seeds}", flush=True)
    from s2d_core.errors import S2DError

    signal.signal(signal.SIGTERM, stop)
    try:
        return run(name, parameters, dry_run)
    except S2DError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoints", file=sys.stderr)
        return 130


def stop(number: int, frame: object) -> NoReturn:
    """SIGTERM ends a run as Ctrl-C does."""
    raise KeyboardInterrupt


def run(name: str, parameters: dict[str, Any], dry_run: bool) -> int:
    """Plan without any server; then, unless that was all, run the flow."""
    from flows import prepare
    from s2d_core.mirror import open_mirror
    from s2d_core.store import Store
    from tasks.planning import describe, reasons

    prepared = getattr(prepare, name)(**parameters)
    why = reasons(prepared.plan, Store(prepared.config.store), open_mirror(prepared.config))
    print(describe(prepared.plan, prepared.config, why), flush=True)
    if dry_run:
        return 0
    from flows.terminal import run_in_terminal

    return run_in_terminal(name, parameters)


if __name__ == "__main__":
    sys.exit(main())
