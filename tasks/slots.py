"""How many stages run at once, and which of the waiting ones goes first."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from s2d_core.spec import StageSpec

POLL_S = 0.5
NOTHING: Mapping[str, float] = {}


class Slots:
    """``count`` slots. A free one goes to the waiting stage that most work still hangs on, among those that ``room``
    is enough for beside what runs: a stage that Ray gave its training workers, and not yet its rollout workers, would
    wait for another one in the same state, and that one for it.

    room: amounts by resource, as Ray names them; empty: no limit but the count.
    """

    def __init__(self, count: int, room: Mapping[str, float] = NOTHING) -> None:
        self.room = room
        self._free, self._held = count, Counter[str]()
        self._waiting: dict[tuple[float, str], Mapping[str, float]] = {}  # what each needs
        self._changed = threading.Condition()

    @contextmanager
    def __call__(
        self,
        name: str,
        priority: float,
        check: Callable[[], None] = lambda: None,
        needs: Mapping[str, float] = NOTHING,
    ) -> Iterator[None]:
        """Hold a slot. ``check`` is called now and then while waiting; what it raises ends the wait."""
        entry = (-priority, name)
        with self._changed:
            self._waiting[entry] = needs
            try:
                while not self._changed.wait_for(lambda: self._next() == entry, POLL_S):
                    check()
                self._free -= 1
                self._held.update(needs)  # type: ignore[arg-type]  # a Counter of amounts
            finally:
                del self._waiting[entry]
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._held.subtract(needs)  # type: ignore[arg-type]
                self._changed.notify_all()

    def _next(self) -> tuple[float, str] | None:
        """The waiting stage whose turn it is; None while all must wait."""
        fitting = (entry for entry in sorted(self._waiting) if self._fits(self._waiting[entry]))
        return next(fitting, None) if self._free > 0 else None

    def _fits(self, needs: Mapping[str, float]) -> bool:
        return not self.room or all(
            self._held[name] + amount <= self.room.get(name, 0.0) + 1e-6 for name, amount in needs.items()
        )


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
