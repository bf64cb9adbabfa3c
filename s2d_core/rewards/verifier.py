"""The sparse reward: 1 when the last ``\\boxed{}`` of a completion equals the gold answer, else 0.

math-verify can run for ever, exhaust memory or crash on what a model writes, and its own time limits need the
main thread of a process. So it runs in worker processes that are killed at the limit and replaced, and none of
it happens in this process: a Verifier may be used from any thread and inside a Ray worker.
"""

import re
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from s2d_core.data.problems import Problem
from s2d_core.rewards.boxes import last_box
from s2d_core.rewards.worker import Worker

Status = Literal["correct", "wrong", "malformed", "timeout"]
Pair = tuple[str, str]  # what stands in the box, gold answer

MAX_CHARACTERS = 1000  # longer answers are never parsed: equal as strings, or wrong
MEMO_SIZE = 16_384

_INTEGER = re.compile(r"[+-]?[0-9]{1,15}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """``malformed``: no closed, non-empty box. ``timeout``: over the time or memory limit, or its worker died twice."""

    reward: float
    status: Status


class Verifier:
    """Scores batches of completions on ``workers`` processes.

    timeout_s: wall seconds for one answer. memory_mb: MiB one answer may take.
    No process is started before the first answer that plain comparison cannot decide.
    """

    def __init__(self, workers: int = 1, timeout_s: float = 5.0, memory_mb: int = 2048) -> None:
        self._workers = [Worker(timeout_s, memory_mb) for _ in range(workers)]
        self._memo: dict[Pair, Status] = {}
        self._lock = threading.Lock()  # one batch at a time

    def score(self, items: Sequence[tuple[str, str]]) -> list[Verdict]:
        """One verdict for each (completion text, gold answer), in order. No completion makes it raise.

        Raises ResourceError when worker processes cannot be started at all.
        """
        pairs = [(last_box(text), gold.strip()) for text, gold in items]
        with self._lock:
            statuses = self._decide({(box, gold) for box, gold in pairs if box is not None})
        found = [statuses[box, gold] if box is not None else "malformed" for box, gold in pairs]
        return [Verdict(float(status == "correct"), status) for status in found]

    def check_answers(self, problems: Sequence[Problem]) -> list[str]:
        """Ids of the problems whose gold answer math-verify does not recognise even against itself.

        Such a problem rewards only the gold's exact spelling. About 1 ms for each distinct non-integer answer.
        """
        golds = {problem.id: problem.answer.strip() for problem in problems if problem.answer is not None}
        pairs = {(gold, gold) for gold in golds.values() if not _INTEGER.fullmatch(gold)}
        with self._lock:
            statuses = self._ask({pair for pair in pairs if len(pair[0]) <= MAX_CHARACTERS})
        bad = {gold for gold, _ in pairs if statuses.get((gold, gold)) != "correct"}
        return [problem_id for problem_id, gold in golds.items() if gold in bad]

    def close(self) -> None:
        """End the worker processes. The verifier may be used again; it then starts new ones."""
        with self._lock:
            for worker in self._workers:
                worker.close()

    def __enter__(self) -> "Verifier":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _decide(self, pairs: set[Pair]) -> dict[Pair, Status]:
        decided: dict[Pair, Status] = {}
        for pair in pairs:
            status = _compare(*pair) or self._memo.get(pair)
            if status is not None:
                decided[pair] = status
        asked = self._ask(pairs - decided.keys())
        self._memo.update(asked)
        while len(self._memo) > MEMO_SIZE:
            del self._memo[next(iter(self._memo))]  # the oldest
        return decided | asked

    def _ask(self, pairs: set[Pair]) -> dict[Pair, Status]:
        """Verdicts of the worker processes, each of which takes the next pair when it is done with one."""
        waiting = deque(sorted(pairs))
        statuses: dict[Pair, Status] = {}

        def drain(worker: Worker) -> None:
            while True:
                try:
                    pair = waiting.popleft()
                except IndexError:
                    return
                statuses[pair] = worker.grade(*pair)

        workers = self._workers[: len(pairs)]
        if workers:
            with ThreadPoolExecutor(len(workers)) as threads:
                for done in [threads.submit(drain, worker) for worker in workers]:
                    done.result()
        return statuses


def _compare(box: str, gold: str) -> Status | None:
    """What plain comparison can decide: equal text, two integers, and text too long to be read."""
    if box == gold:
        return "correct"
    if _INTEGER.fullmatch(box) and _INTEGER.fullmatch(gold):
        return "correct" if int(box) == int(gold) else "wrong"
    return "wrong" if max(len(box), len(gold)) > MAX_CHARACTERS else None
