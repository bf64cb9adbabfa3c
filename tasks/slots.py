"""How many stages run at once, and which of the waiting ones goes first."""

import heapq
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from s2d_core.spec import StageSpec

POLL_S = 0.5


class Slots:
    """``count`` slots. When one is free it goes to the waiting stage that most work still hangs on."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: list[tuple[float, str]] = []
        self._changed = threading.Condition()

    @contextmanager
    def __call__(self, name: str, priority: float, check: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold a slot. ``check`` is called now and then while waiting; what it raises ends the wait."""
        entry = (-priority, name)
        with self._changed:
            heapq.heappush(self._waiting, entry)
            try:
                while not self._changed.wait_for(lambda: self._free > 0 and self._waiting[0] == entry, POLL_S):
                    check()
                self._free -= 1
            finally:
                self._waiting.remove(entry)
                heapq.heapify(self._waiting)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()


def priorities(specs: Mapping[str, StageSpec]) -> dict[str, float]:
    """Length of the longest chain of work that starts at each stage, in training steps × size of a step.

    ``specs`` has parents before children. Evaluations weigh little: nothing waits for them.
    """
    after = dict.fromkeys(specs, 0.0)  # the longest chain among the children
    total: dict[str, float] = {}
    for fingerprint, spec in reversed(list(specs.items())):
        total[fingerprint] = _work(spec) + after[fingerprint]
        for parent in spec.inputs.values():
            after[parent] = max(after[parent], total[fingerprint])
    return total


def _work(spec: StageSpec) -> float:
    settings = spec.settings
    sequences = settings.get("sequences_per_step") or settings.get("prompts_per_step", 0) * settings.get(
        "group_size", 0
    )
    # A wider model costs more a sequence; that only from-scratch models say.
    width = settings.get("scratch", {}).get("hidden_size", 64)
    return 1.0 + settings.get("steps", 0) * sequences * width
