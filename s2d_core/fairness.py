"""Do two arms differ in what their contrast is about, and in nothing else? Asked of the plan, before training.

For each arm the plan says (``facts``):

    labels, prompts                    distinct problems whose answers are looked at; that are trained on at all
    rollouts                           sequences sampled for training; stored ones count once
    student_updates, teacher_updates   optimiser updates
    sequences_per_update               distinct values over the trained stages
    group_size, sampling.*, optimiser.*    likewise
    stages, teacher, ...               the rows in order, and whatever else the arm says of itself
    models                             base model of each role
    learning_rate_trials               rates tried for each stage; the rates may differ, being tuned for each arm
    steps, problems, policy_gradient.*, divergence.*, ...    every other setting of a stage

Those of the last line are compared row by row, GRPO rows with each other whichever model they train. What only one arm
has is not compared: the difference in ``stages`` says so.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from s2d_core.config.schema import Config, ContrastConfig
from s2d_core.data.slices import slice_range
from s2d_core.errors import FairnessError
from s2d_core.plan import Plan
from s2d_core.recipe import STAGES, spends_labels
from s2d_core.spec import StageSpec

ARM = ""  # where a fact of the whole arm lies
SPARSE = "GRPO"  # where the settings of every row with a policy gradient alone lie
OF_THE_ARM = ("group_size", "sampling", "optimiser")  # sections of settings that all stages of an arm share
ELSEWHERE = ("prompts_per_step", "optimiser.lr")  # in sequences_per_update; free
Facts = dict[tuple[str, str], Any]  # (quantity, row or ARM) → value


@dataclass(frozen=True)
class Difference:
    """``quantity`` has two values in ``where`` (a row, or the whole arm); ``named``: by the contrast."""

    quantity: str
    where: str
    first: Any
    second: Any
    named: bool

    def __str__(self) -> str:
        return f"{self.quantity}{self.where and f' of {self.where}'}: {self.first} against {self.second}"


def check(config: Config, plan: Plan) -> dict[str, list[Difference]]:
    """Differences of each contrast whose arms are both planned, by its name.

    Raises FairnessError naming every difference that a strict contrast does not name, and every name in ``differs``
    that is no quantity of its arms.
    """
    found, problems = {}, []
    for contrast in config.contrasts:
        if not all(arm in plan.arms for arm in contrast.arms):
            continue
        found[contrast.name] = differences(config, plan, contrast)
        unnamed = [str(each) for each in found[contrast.name] if not each.named]
        if contrast.strict and unnamed:
            problems.append(
                f"contrast {contrast.name!r}: {' and '.join(contrast.arms)} also differ in {'; '.join(unnamed)}. Make "
                f"them equal, name it under differs ({', '.join(contrast.differs)}), or set strict: false"
            )
        problems += _unknown_names(contrast, {key[0] for arm in contrast.arms for key in facts(config, plan, arm)})
    if problems:
        raise FairnessError("\n".join(problems))
    return found


def differences(config: Config, plan: Plan, contrast: ContrastConfig) -> list[Difference]:
    """Every fact in which the contrast's arms differ."""
    first, second = (facts(config, plan, arm) for arm in contrast.arms)
    rows = {where for _, where in first} & {where for _, where in second}
    keys = [key for key in {**first, **second} if key[1] in rows]
    return [
        Difference(*key, first.get(key), second.get(key), any(_matches(name, key[0]) for name in contrast.differs))
        for key in keys
        if first.get(key) != second.get(key)
    ]


def facts(config: Config, plan: Plan, arm: str) -> Facts:
    """What the module's table says of ``arm``; the same under every seed."""
    specs = [plan.specs[fingerprint] for fingerprint in next(iter(plan.arms[arm].values())).stages]
    bases = [spec for spec in specs if spec.kind == "base" or spec.name.startswith("pretrain_")]
    trained = [spec for spec in specs if spec.name in STAGES and spec not in bases]
    labelled = [spec for spec in trained if spends_labels(spec.name, spec.settings)]
    found: Facts = {
        ("labels", ARM): _distinct_problems(config, labelled),
        ("prompts", ARM): _distinct_problems(config, trained),
        ("rollouts", ARM): sum(_rollouts(config, spec) for spec in trained),
        ("sequences_per_update", ARM): _values(_sequences_per_update(spec) for spec in trained),
        ("stages", ARM): [spec.name for spec in trained],
        ("learning_rate_trials", ARM): (config.learning_rate_trials or {}).get(arm),
    }
    for role in ("student", "teacher"):
        mine = [spec for spec in trained if STAGES[spec.name].trains == role]
        found[f"{role}_updates", ARM] = sum(_updates(spec) for spec in mine)
    for name, value in config.arms[arm].model_dump(exclude={"description", "stages"}).items():
        found[name, ARM] = value
    for spec in bases:
        found["models", spec.name.split("_")[-1]] = spec.settings
    return found | _settings(trained)


def _settings(trained: list[StageSpec]) -> Facts:
    """Distinct values of each setting, over the arm or over a row."""
    collected: dict[tuple[str, str], list[Any]] = {}
    for spec in trained:
        row = SPARSE if STAGES[spec.name].loss == "policy_gradient" else spec.name
        for name, value in leaves(spec.settings).items():
            if name not in ELSEWHERE:
                where = ARM if name.split(".")[0] in OF_THE_ARM else row
                collected.setdefault((name, where), []).append(value)
    return {key: _values(values) for key, values in collected.items()}


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, keys joined by dots."""
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= leaves(inner, f"{prefix}.{key}" if prefix else key)
    return found


def _distinct_problems(config: Config, specs: list[StageSpec]) -> int:
    """How many problems the stages can reach in all; exact where each goes through its slice, as a rule it does."""
    pool = {position for spec in specs for position in _slice(config, spec)}
    return min(len(pool), sum(_reached(config, spec) for spec in specs))


def _reached(config: Config, spec: StageSpec) -> int:
    pool = len(_slice(config, spec))
    anywhere = _asks_the_student(spec) or spec.settings.get("policy_gradient", {}).get("refill_rounds")
    return pool if anywhere else min(pool, spec.settings["steps"] * spec.settings["prompts_per_step"])


def _asks_the_student(spec: StageSpec) -> bool:
    """Whether the stage begins by finding the student's pass rate on every problem of its slice."""
    return spends_labels(spec.name, spec.settings) and STAGES[spec.name].signal == "teacher"


def _slice(config: Config, spec: StageSpec) -> range:
    splits = config.data.splits
    return slice_range(spec.settings["problems"], splits.labelled, splits.held_out)


def _rollouts(config: Config, spec: StageSpec) -> int:
    settings = spec.settings
    stored = STAGES[spec.name].actor == "teacher"
    prompts = _reached(config, spec) if stored else settings["steps"] * settings["prompts_per_step"]
    asked = len(_slice(config, spec)) if _asks_the_student(spec) else 0
    return int((prompts + asked) * settings["group_size"])


def _minibatches(spec: StageSpec) -> int:
    return int(spec.settings.get("policy_gradient", {}).get("minibatches", 1))


def _updates(spec: StageSpec) -> int:
    return int(spec.settings["steps"]) * _minibatches(spec)


def _sequences_per_update(spec: StageSpec) -> int:
    return int(spec.settings["prompts_per_step"] * spec.settings["group_size"]) // _minibatches(spec)


def _values(values: Iterable[Any]) -> Any:
    """The value if there is one only, else the distinct ones in a stable order."""
    distinct = {str(value): value for value in values}
    ordered = [distinct[key] for key in sorted(distinct)]
    return ordered[0] if len(ordered) == 1 else ordered


def _matches(name: str, quantity: str) -> bool:
    return quantity == name or quantity.startswith(f"{name}.")


def _unknown_names(contrast: ContrastConfig, quantities: set[str]) -> list[str]:
    allowed = ", ".join(sorted({quantity.split(".")[0] for quantity in quantities}))
    return [
        f"contrast {contrast.name!r}: differs names {name!r}, which is no quantity of its arms; allowed: {allowed}, "
        "or a dotted setting of these"
        for name in contrast.differs
        if not any(_matches(name, quantity) for quantity in quantities)
    ]
