"""What each flow would run: its configuration and its plan. Needs no server and writes nothing, so that a dry run and
the flow itself read the same. Functions are named as the flows are, and take their parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from s2d_core import fairness
from s2d_core.allocation import Point, Scale, allocation_arms
from s2d_core.config.compose import load_config, with_arms
from s2d_core.config.inputs import ModelConfig
from s2d_core.config.schema import Config
from s2d_core.config.stages import ArmConfig
from s2d_core.errors import CheckpointError, ConfigError
from s2d_core.evaluation.comparison import Verdict
from s2d_core.expectations import check_expectations
from s2d_core.mirror import open_mirror
from s2d_core.plan import Plan, only_deployed, plan, plan_evaluations
from s2d_core.preflight import preflight, source_hashes
from s2d_core.store import Store
from s2d_core.training.model_files import content_hash, locate_model
from s2d_core.tuning import ArmTuner, tuners
from tasks.planning import FINISHED, reasons

NOTHING: Mapping[str, Verdict] = MappingProxyType({})


@dataclass(frozen=True)
class Prepared:
    """The configuration, the union DAG, and content hashes of external inputs (``preflight``)."""

    config: Config
    plan: Plan
    sources: Mapping[str, str]


@dataclass(frozen=True)
class Allocation(Prepared):
    points: list[Point]


@dataclass(frozen=True)
class Tuning(Prepared):
    """``plan`` is that of the first trials; later ones depend on what these show."""

    tuners: list[ArmTuner]


def sparse_to_dense(
    recipe: str,
    arms: Sequence[str] | None,
    seeds: Sequence[int],
    overrides: Sequence[str],
    expect: Mapping[str, Verdict] = NOTHING,
) -> Prepared:
    return _prepared(_compose(recipe, overrides), arms, seeds, expect)


def ablations(
    recipe: str,
    arms: Sequence[str] | None,
    seeds: Sequence[int],
    overrides: Sequence[str],
    extra_arms: Mapping[str, ArmConfig] | None = None,
    expect: Mapping[str, Verdict] = NOTHING,
) -> Prepared:
    """``arms`` (None: every arm of the recipe) and all of ``extra_arms``."""
    config, extra = _compose(recipe, overrides), dict(extra_arms or {})
    chosen = [*(config.arms if arms is None else arms), *extra]
    return _prepared(with_arms(config, extra), chosen, seeds, expect)


def tune(
    recipe: str,
    arms: Sequence[str] | None,
    factors: Sequence[float],
    trials: int,
    seeds: Sequence[int],
    overrides: Sequence[str],
    stages: Sequence[str] | None = None,
) -> Tuning:
    """Everything is measured on the validation split."""
    config = _compose(recipe, [*overrides, "evaluation.split=validation"])
    sources = preflight(config, arms)
    searched = tuners(config, arms, factors, trials, stages)
    return Tuning(config, plan_trials(config, searched, seeds, sources), sources, searched)


def plan_trials(config: Config, searched: Sequence[ArmTuner], seeds: Sequence[int], sources: Mapping[str, str]) -> Plan:
    """The union DAG of the trials that come next, of all arms. They are judged by the deployed model alone."""
    trials = {name: arm for tuner in searched for name, arm in tuner.ask().items()}
    return only_deployed(plan(with_arms(config, trials), list(trials), seeds, sources))


def allocation(
    recipe: str,
    shares: Sequence[float],
    label_counts: Sequence[int] | None,
    seeds: Sequence[int],
    overrides: Sequence[str],
    scale: Scale = "steps",
    upstream: str = "full",
    downstream: str = "direct_grpo",
    mixed: str | None = None,
) -> Allocation:
    config = _compose(recipe, overrides)
    points, arms = allocation_arms(config, shares, label_counts, scale, upstream, downstream, mixed)
    prepared = _prepared(with_arms(config, arms), list(arms), seeds)
    return Allocation(prepared.config, prepared.plan, prepared.sources, points)


def evaluate(
    recipe: str,
    checkpoints: Sequence[str],
    arms: Sequence[str],
    seeds: Sequence[int],
    split: str,
    overrides: Sequence[str],
) -> Prepared:
    """Each checkpoint, a Hugging Face model folder or Hub id, is an arm that trains nothing; ``arms`` of the recipe
    are those that are finished."""
    given = [*checkpoints, *arms]
    if not given or len(set(given)) < len(given):
        raise ConfigError(f"checkpoints = {list(checkpoints)}, arms = {list(arms)}: give at least one, each once")
    config = _compose(recipe, [*overrides, f"evaluation.split={split}"])
    found = {name: locate_model(ModelConfig(path=name)).absolute() for name in checkpoints}
    sources = preflight(config, arms)
    hashed = {name: (str(path), content_hash(path)) for name, path in found.items()}
    planned = plan_evaluations(config, hashed, sources)
    if arms:
        finished = only_deployed(plan(config, arms, seeds, sources))
        _check_finished(finished, config)
        planned = Plan(planned.specs | finished.specs, planned.arms | finished.arms)
    return Prepared(config, planned, sources)


def prune(recipes: Sequence[str], seeds: Sequence[int], overrides: Sequence[str]) -> tuple[Store, set[str]]:
    """The store of ``recipes``, and the fingerprints of all stages of all their arms."""
    configs = [_compose(recipe, overrides) for recipe in recipes]
    if len(stores := {config.store for config in configs}) != 1:
        raise ConfigError(
            f"recipes = {list(recipes)}: give recipes of one store; these have {sorted(stores) or 'none'}"
        )
    plans = [plan(config, list(config.arms), seeds, source_hashes(config)) for config in configs]
    return Store(stores.pop()), {fingerprint for each in plans for fingerprint in each.specs}


def _check_finished(planned: Plan, config: Config) -> None:
    why = reasons(planned, Store(config.store), open_mirror(config))
    missing = [f for f, spec in planned.specs.items() if why[f] not in FINISHED and spec.kind != "base"]
    for name, seeds in planned.arms.items():
        for seed, arm in seeds.items():
            if named := [planned.specs[f].id for f in arm.stages if f in missing]:
                raise CheckpointError(
                    f"arms = {name!r}, seed {seed}: not finished under {config.store} (missing: {', '.join(named)}); "
                    f"train it first, with the same recipe and settings: python -m flows --arms {name} --seeds {seed}"
                )


def _compose(recipe: str, overrides: Sequence[str]) -> Config:
    config = load_config(recipe, overrides)
    # Stages run in processes with other working directories.
    return config.model_copy(update={"store": str(Path(config.store).absolute())})


def _prepared(
    config: Config, arms: Sequence[str] | None, seeds: Sequence[int], expect: Mapping[str, Verdict] = NOTHING
) -> Prepared:
    sources = preflight(config, arms)
    planned = plan(config, arms, seeds, sources)
    check_expectations(config, list(planned.arms), expect)
    fairness.check(config, planned)
    return Prepared(config, planned, sources)
