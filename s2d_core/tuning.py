"""Which learning rates to try next, given how accurate those tried were on the validation problems. Runs nothing.

The stages of an arm are searched one after the other, those before at their chosen values and those after at the
recipe's. A stage of the teacher is judged by the teacher's accuracy, a stage of the student by the deployed student's.
Each search starts from the recipe's value times ``factors`` and ends after exactly ``trials`` trials, the same number
for every stage of every arm: while the best value is at an edge the grid grows there by a factor of 2, and once it is
bracketed the remaining trials go between it and its neighbours.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from s2d_core.config.schema import Config
from s2d_core.config.stages import ArmConfig, ArmStage
from s2d_core.errors import ConfigError
from s2d_core.recipe import STAGES, stage_settings

FACTOR = 2.0
LEARNING_RATE = "optimiser.lr"


@dataclass
class Search:
    """One stage's search. scores: learning rate → accuracy, None where a training failed; in the order tried."""

    base: float
    factors: Sequence[float]
    trials: int
    scores: dict[float, float | None] = field(default_factory=dict)

    def ask(self) -> list[float]:
        """Learning rates to try next; none when the search is over."""
        if not self.scores:
            return [_rounded(self.base * factor) if factor != 1 else self.base for factor in self.factors]
        rate = self._next()
        return [rate] if len(self.scores) < self.trials and rate not in self.scores else []

    @property
    def best(self) -> float | None:
        """The most accurate; None when every training failed."""
        found = {rate: score for rate, score in self.scores.items() if score is not None}
        return max(sorted(found), key=lambda rate: found[rate]) if found else None

    @property
    def bracketed(self) -> bool:
        """Whether both a smaller and a larger value were tried and are no better."""
        return self.best is not None and min(self.scores) < self.best < max(self.scores)

    def _next(self) -> float:
        rates, best = sorted(self.scores), self.best
        if best is None or best == rates[0]:  # training that fails asks for smaller steps
            return _rounded(rates[0] / FACTOR)
        if best == rates[-1]:
            return _rounded(rates[-1] * FACTOR)
        place = rates.index(best)

        def promise(neighbour: float) -> tuple[float, float]:
            score = self.scores[neighbour]
            return round(abs(math.log(neighbour / best)), 2), -math.inf if score is None else score

        return _rounded(math.sqrt(best * max(rates[place - 1], rates[place + 1], key=promise)))


class ArmTuner:
    """The searches of one arm, stage by stage. searches: place in the arm → search, of those ``stages`` it has."""

    def __init__(
        self, config: Config, name: str, factors: Sequence[float], trials: int, stages: Sequence[str] | None = None
    ) -> None:
        self.name, self.arm = name, config.arms[name]
        self.searches = {
            place: Search(stage_settings(config, entry)["optimiser"]["lr"], factors, trials)
            for place, entry in enumerate(self.arm.stages)
            if stages is None or entry.stage in stages
        }
        self._ahead = list(self.searches)  # places not done; the first is being searched

    @property
    def searched(self) -> list[tuple[int, ArmStage, Search]]:
        """(place, stage, its search), in order."""
        return [(place, self.arm.stages[place], search) for place, search in self.searches.items()]

    @property
    def failed(self) -> bool:
        """Whether a stage has no learning rate under which it can be trained."""
        return bool(self._ahead) and not self._searching

    @property
    def _searching(self) -> bool:
        return bool(self._ahead) and bool(self.searches[self._ahead[0]].ask())

    def ask(self) -> dict[str, ArmConfig]:
        """Name → arm of the trials that come next; none when the arm is done."""
        return {name: self._trial(rate) for name, rate in self._asked().items()}

    def tell(self, accuracy: Mapping[str, float | None]) -> None:
        """The accuracies of the trials asked for."""
        if not self._searching:
            return
        search = self.searches[self._ahead[0]]
        search.scores.update({rate: accuracy[name] for name, rate in self._asked().items()})
        if not search.ask() and search.best is not None:
            del self._ahead[0]

    def tuned(self) -> ArmConfig:
        """The arm with the values chosen so far."""
        return self._with({place: search.best for place, search in self.searches.items() if place not in self._ahead})

    def _asked(self) -> dict[str, float]:
        if not self._ahead:
            return {}
        place = self._ahead[0]
        where = f"{self.name}/{place + 1}.{self.arm.stages[place].stage}"
        return {f"{where}/{rate:g}": rate for rate in self.searches[place].ask()}

    def _trial(self, rate: float) -> ArmConfig:
        place = self._ahead[0]
        chosen = {each: search.best for each, search in self.searches.items() if each not in self._ahead}
        arm = self._with(chosen | {place: rate})
        if STAGES[arm.stages[place].stage].trains == "student":
            return arm
        upto = arm.stages[: place + 1]
        return arm.model_copy(update={"stages": tuple(e for e in upto if STAGES[e.stage].trains == "teacher")})

    def _with(self, rates: Mapping[int, float | None]) -> ArmConfig:
        stages = tuple(_set_rate(entry, rates.get(place)) for place, entry in enumerate(self.arm.stages))
        return self.arm.model_copy(update={"stages": stages})


def tuners(
    config: Config,
    arms: Sequence[str] | None,
    factors: Sequence[float],
    trials: int,
    stages: Sequence[str] | None = None,
) -> list[ArmTuner]:
    """One for each of ``arms`` (None: all of the recipe's), searching its ``stages`` (None: all; the others keep their
    rates). Raises ConfigError for what cannot be searched.
    """
    names = list(config.arms if arms is None else arms)
    if unknown := [name for name in names if name not in config.arms]:
        raise ConfigError(f"arms = {unknown}: unknown; allowed: {', '.join(config.arms)}")
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"arms = {names}: give at least one, each once")
    if not factors or len(set(factors)) < len(factors) or not all(0 < factor < math.inf for factor in factors):
        raise ConfigError(f"factors = {list(factors)}: give at least one positive number, each once")
    if trials < len(factors):
        raise ConfigError(f"trials = {trials}: fewer than the {len(factors)} factors that each search starts from")
    found = [ArmTuner(config, name, factors, trials, stages) for name in names]
    if nothing := [tuner.name for tuner in found if not tuner.searches]:
        raise ConfigError(f"stages = {stages}: {', '.join(nothing)} has none of them; name stages of each arm")
    return found


def _set_rate(entry: ArmStage, rate: float | None) -> ArmStage:
    return entry if rate is None else entry.model_copy(update={"set": {**entry.set, LEARNING_RATE: rate}})


def _rounded(rate: float) -> float:
    """Four digits: enough to search by, and short enough to read."""
    return float(f"{rate:.4g}")
