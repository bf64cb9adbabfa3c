"""The label ledger: which answers a stage has looked at, and when. Knows no problems, only their ids."""

import json
import os
from collections.abc import Collection, Iterable
from pathlib import Path

from s2d_core.errors import DataError, LabelBudgetError

SHOWN = 5


class LabelLedger:
    """An append-only file with one JSON line for each charge: ``{"stage", "step", "problems"}``.

    budget: how many distinct labels may be looked at. forbidden: ids of evaluation problems.
    A charge is on disk before ``charge`` returns. A line torn by a crash is forgotten on opening: its charge
    never returned, so nothing has been looked at. One process writes.
    """

    def __init__(self, path: Path | str, budget: int, forbidden: Collection[str] = ()) -> None:
        self._path = Path(path)
        self._budget = budget
        self._forbidden = frozenset(forbidden)
        self._charged: dict[tuple[str, int], set[str]] = {}
        self._seen: set[str] = set()
        if self._path.exists():
            self._read()

    @property
    def labels(self) -> int:
        """Distinct problems whose answers were looked at."""
        return len(self._seen)

    @property
    def looks(self) -> int:
        """Looks in total: a problem counts once for each stage and step that looked at it."""
        return sum(len(ids) for ids in self._charged.values())

    def charge(self, stage: str, problem_ids: Iterable[str], step: int) -> None:
        """Record that ``stage`` looks at these answers at ``step``. Charging the same again changes nothing.

        Raises LabelBudgetError, and records nothing, for an evaluation problem or when the distinct labels
        would exceed the budget.
        """
        asked = list(dict.fromkeys(problem_ids))
        if taboo := [name for name in asked if name in self._forbidden]:
            raise LabelBudgetError(
                f"{stage}, step {step}: {len(taboo)} of the problems are evaluation problems "
                f"({', '.join(taboo[:SHOWN])}); their answers may not be used for training"
            )
        before = self._charged.get((stage, step), set())
        new = [name for name in asked if name not in before]
        if (labels := len(self._seen.union(new))) > self._budget:
            raise LabelBudgetError(
                f"{stage}, step {step}: needs {labels} distinct labels, over the budget of {self._budget} "
                f"({self.labels} are spent); raise label_budget or give the stage fewer labels"
            )
        if new:
            self._append(stage, step, new)
            self._record(stage, step, new)

    def _record(self, stage: str, step: int, ids: Iterable[str]) -> None:
        self._charged.setdefault((stage, step), set()).update(ids)
        self._seen.update(ids)

    def _append(self, stage: str, step: int, ids: list[str]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.write(json.dumps({"stage": stage, "step": step, "problems": ids}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> None:
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                entry = json.loads(line)
                self._record(entry["stage"], entry["step"], entry["problems"])
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{self._path}, line {number}: not a ledger entry ({error}); restore the file, "
                    "or delete the stage's directory to run it anew"
                ) from error
        if whole < len(content):
            os.truncate(self._path, whole)
