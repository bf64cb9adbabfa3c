"""The program of a verifier's worker process: math-verify on one pair at a time, under a memory limit and an alarm.

Reads JSON lines ``[answer, gold, alarm seconds]`` and writes one word a line: ``ready`` once, then grades.
Only ever run in a process that may be killed at any moment; see ``worker.py``.
"""

import json
import logging
import os
import resource
import signal
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

Grade = Literal["correct", "wrong", "timeout"]


def main(memory_mb: int) -> None:
    """Serve until standard input ends, with at most ``memory_mb`` MiB on top of what the imports took."""
    import math_verify  # noqa: F401  (paid here, outside the first answer's time limit)

    # math-verify warns that its own time limits are off; ours kill the process.
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    _limit_memory(memory_mb)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt at the terminal is the parent's to handle
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a parser prints is no reply
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        answer, gold, alarm_s = json.loads(line)
        # The signal ends the process: for when the parent is gone and nobody else would.
        signal.setitimer(signal.ITIMER_REAL, alarm_s)
        reply = grade(answer, gold)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(reply, file=replies, flush=True)


def grade(answer: str, gold: str) -> Grade:
    """``correct`` when math-verify holds ``answer`` equal to ``gold``; ``timeout`` at the memory limit."""
    from math_verify import verify

    try:
        return "correct" if verify(list(_parse_gold(gold)), _parse(answer), timeout_seconds=None) else "wrong"
    except MemoryError:
        return "timeout"
    except Exception:  # whatever a parser raises, it is the text's fault
        return "wrong"


def _parse(text: str) -> list[Any]:
    from math_verify import parse

    return parse(f"\\boxed{{{text}}}", parsing_timeout=None)  # type: ignore[arg-type]


@lru_cache(maxsize=1024)
def _parse_gold(gold: str) -> tuple[Any, ...]:
    return tuple(_parse(gold))


def _limit_memory(memory_mb: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + memory_mb * 2**20
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or limit < hard:  # an outer, stricter limit stays
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main(int(sys.argv[1]))
