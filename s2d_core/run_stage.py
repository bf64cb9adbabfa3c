"""Run one stage from its spec: ``python -m s2d_core.run_stage spec.json``.

The same entry point whether the stage runs in this process, on an attached Ray cluster or as a Ray job.
"""

import argparse
import json
import sys
from pathlib import Path

from s2d_core.errors import S2DError
from s2d_core.spec import StageResult, StageSpec
from s2d_core.training import parallel
from s2d_core.training.context import Context, Report, silent


def run_stage(spec: StageSpec, report: Report = silent) -> StageResult:
    """Run ``spec`` on this rank, resuming what an earlier try left, and commit its result.

    Collective: every rank of the process group calls it. Returns at once when the stage is finished already.
    """
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()  # a stage has its own
    context = Context(spec, report)
    if (done := context.store.result(spec)) is not None:
        return done
    torch.set_num_threads(context.training.threads)
    if parallel.rank() == 0:
        context.store.start(spec)
    parallel.barrier()
    with context.log(), context.opened:
        result = _run(context)
    if parallel.rank() == 0:
        context.store.commit(spec, result)
    parallel.barrier()
    return result


def _run(context: Context) -> StageResult:
    kind = context.spec.kind
    if kind == "data":
        from s2d_core.stages.data import write_data

        return write_data(context)
    if kind == "base":
        from s2d_core.stages.base import import_base

        return import_base(context)
    if kind == "evaluate":
        from s2d_core.stages.evaluate import evaluate

        return evaluate(context)
    from s2d_core.stages.trained import run_row

    return run_row(context)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec", type=Path, help="a stage's spec.json")
    parser.add_argument("--inproc", action="store_true", help="run in this process, without Ray")
    arguments = parser.parse_args()
    try:
        spec = StageSpec.model_validate(json.loads(arguments.spec.read_text()))
        if arguments.inproc:
            run_stage(spec)
        else:
            from s2d_core.training.ray_train import fit

            fit(spec)
    except S2DError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
