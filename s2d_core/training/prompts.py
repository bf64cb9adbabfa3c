"""Which problems each step uses: epochs of seeded permutations, a pure function of the step (the data cursor)."""

import random
from collections.abc import Sequence

from s2d_core.data.problems import Problem


class PromptStream:
    """``batch(step)``: the ``prompts_per_step`` problems of a step; every problem comes once an epoch."""

    def __init__(self, problems: Sequence[Problem], prompts_per_step: int, seed: int) -> None:
        self.problems, self.prompts_per_step, self.seed = problems, prompts_per_step, seed
        self._orders: dict[int, list[int]] = {}

    def batch(self, step: int) -> list[Problem]:
        first = step * self.prompts_per_step
        return [self._problem(index) for index in range(first, first + self.prompts_per_step)]

    def others(self, step: int) -> list[Problem]:
        """The problems that are not among the step's, in a seeded order of the step's own."""
        taken = {problem.id for problem in self.batch(step)}
        found = [problem for problem in self.problems if problem.id not in taken]
        random.Random(f"{self.seed}:others:{step}").shuffle(found)
        return found

    def used(self, steps: int) -> list[Problem]:
        """Distinct problems of the first ``steps`` steps, in order of first use."""
        seen = {p.id: p for step in range(steps) for p in self.batch(step)}
        return list(seen.values())

    def _problem(self, index: int) -> Problem:
        epoch, position = divmod(index, len(self.problems))
        if epoch not in self._orders:
            order = list(range(len(self.problems)))
            random.Random(f"{self.seed}:{epoch}").shuffle(order)
            self._orders[epoch] = order
        return self.problems[self._orders[epoch][position]]
