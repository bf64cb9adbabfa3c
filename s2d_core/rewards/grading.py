"""What a verifier worker process runs: math-verify on one pair, under a memory limit and an alarm.

Only ever called in a process that may be killed at any moment; see ``verifier.py``.
"""

import logging
import resource
import signal
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

Grade = Literal["correct", "wrong", "timeout"]

# The alarm is for workers whose parent is gone; a living parent kills at the limit itself.
ALARM_GRACE_S = 5.0

_alarm_s = 0.0


def initialise(timeout_s: float, memory_mb: int) -> None:
    """Prepare a worker: at most ``memory_mb`` MiB on top of what its imports took, death at once on SIGTERM.

    The address space is limited relative to its size now, because the parent's main module is imported in
    every worker and may be large.
    """
    global _alarm_s
    import math_verify  # noqa: F401  (paid here, outside the first answer's time limit)

    _alarm_s = timeout_s + ALARM_GRACE_S
    # math-verify warns that its own time limits are off; ours kill the process.
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + memory_mb * 2**20
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or limit < hard:  # an outer, stricter limit stays
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    # A Python handler would never run while the interpreter is inside one long computation.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def grade(answer: str, gold: str) -> Grade:
    """``correct`` when math-verify holds ``answer`` equal to ``gold``; ``timeout`` at the memory limit."""
    from math_verify import verify

    signal.setitimer(signal.ITIMER_REAL, _alarm_s)
    try:
        return "correct" if verify(list(_parse_gold(gold)), _parse(answer), timeout_seconds=None) else "wrong"
    except MemoryError:
        return "timeout"
    except Exception:  # whatever a parser raises, it is the text's fault
        return "wrong"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _parse(text: str) -> list[Any]:
    from math_verify import parse

    return parse(f"\\boxed{{{text}}}", parsing_timeout=None)  # type: ignore[arg-type]


@lru_cache(maxsize=1024)
def _parse_gold(gold: str) -> tuple[Any, ...]:
    return tuple(_parse(gold))
