"""What a plan's finished stages left in the store, read once each."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from s2d_core.evaluation.samples import per_level, per_problem, per_set, read_lines
from s2d_core.plan import ArmPlan, Plan
from s2d_core.recipe import STAGES, Role
from s2d_core.spec import StageResult
from s2d_core.store import Store


class Results:
    """Finished stages of a plan, and the arms that are complete."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan, self.store = plan, store
        found = {fingerprint: store.result(spec) for fingerprint, spec in plan.specs.items()}
        self.stages: dict[str, StageResult] = {f: result for f, result in found.items() if result is not None}
        self._measured = cache(self._measure)

    def complete(self, arm: ArmPlan) -> bool:
        return {*arm.stages, *arm.evaluations.values()} <= self.stages.keys()

    def complete_seeds(self, *arms: str) -> list[int]:
        """Seeds under which every one of ``arms`` is complete."""
        plans = [self.plan.arms.get(arm, {}) for arm in arms]
        return [seed for seed in plans[0] if all(seed in each and self.complete(each[seed]) for each in plans)]

    def directory(self, fingerprint: str) -> Path:
        return self.store.dir(self.plan.specs[fingerprint])

    def model(self, fingerprint: str) -> Path:
        """Hugging Face folder of a finished model."""
        return self.directory(fingerprint) / (self.stages[fingerprint].model or "")

    def samples(self, fingerprint: str) -> list[dict[str, Any]]:
        """The lines of an evaluation's ``samples.jsonl``."""
        return read_lines(self.directory(fingerprint) / "samples.jsonl")

    def steps(self, fingerprint: str) -> list[dict[str, Any]]:
        """The lines of a stage's ``metrics.jsonl``."""
        return read_lines(self.directory(fingerprint) / "metrics.jsonl")

    def labels(self, arm: ArmPlan, trains: Role | None = None) -> int:
        """Distinct labels that the arm's stages looked at; of those that train ``trains`` alone, if given."""
        names = {name for name, row in STAGES.items() if trains in (None, row.trains)}
        stages = [f for f in arm.stages if self.plan.specs[f].name in names]
        entries = [entry for f in stages for entry in read_lines(self.directory(f) / "ledger.jsonl")]
        return len({problem for entry in entries for problem in entry["problems"]})

    def per_problem(self, arm: str, seeds: list[int]) -> Float[np.ndarray, "seeds problems"]:
        """Share of right samples of the deployed student."""
        finals = [self.plan.arms[arm][seed].evaluations["final"] for seed in seeds]
        return np.array([self._measured(fingerprint)[0] for fingerprint in finals])

    def per_level(self, fingerprint: str) -> dict[str, float]:
        """Share of right samples by difficulty level."""
        return self._measured(fingerprint)[1]

    def per_set(self, fingerprint: str) -> dict[str, float]:
        """Share of right samples by test set, where there are several."""
        return self._measured(fingerprint)[2]

    def _measure(self, fingerprint: str) -> tuple[Float[np.ndarray, "problems"], dict[str, float], dict[str, float]]:
        samples = self.samples(fingerprint)
        return per_problem(samples), per_level(samples), per_set(samples)
