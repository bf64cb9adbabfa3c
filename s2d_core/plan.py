"""``plan(config, arms, seeds)``: arms × seeds → the union DAG of stage specs. Pure: no file, no clock, no process.

Two arms (or two experiments) that need the same stage get the same fingerprint, so it is trained once. Dry run,
lineage, cost estimate, exactly-once fan-out and resume are all read off the plan.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from s2d_core.config.checks import label_count
from s2d_core.config.compose import validate
from s2d_core.config.schema import Config
from s2d_core.errors import ConfigError
from s2d_core.recipe import STAGES, Role, bears_staleness, stage_settings
from s2d_core.spec import Kind, StageSpec
from s2d_core.workers import stage_workers

MEASURES = 2  # raised by hand when an evaluation measures something new: models are then measured again, not trained


@dataclass(frozen=True)
class ArmPlan:
    """One arm under one seed: fingerprints of what it needs, in order.

    stages: the data, the base models and the trained stages. evaluations: what is measured. Keys: ``final`` (the
    deployed model) and, for arms with a bridge, ``cold`` and ``warm`` (the student before its first and its
    second dense stage), ``teacher`` and ``raw_teacher``. model: the stage whose model is deployed, the last one.
    """

    stages: tuple[str, ...]
    evaluations: dict[str, str]
    model: str


@dataclass
class Plan:
    """specs: fingerprint → spec, parents before children. arms: arm → seed → its part of the DAG."""

    specs: dict[str, StageSpec] = field(default_factory=dict)
    arms: dict[str, dict[int, ArmPlan]] = field(default_factory=dict)


def plan(
    config: Config, arms: Sequence[str] | None, seeds: Sequence[int], sources: Mapping[str, str] | None = None
) -> Plan:
    """The union DAG of ``arms`` (None: the recipe's ``default_arms``) under ``seeds``.

    sources: content hashes of external inputs (``data``, ``teacher``, ``student``), found by the preflight.
    Raises ConfigError for unknown arms and for repeated or missing seeds.
    """
    arms = list((config.default_arms or config.arms) if arms is None else arms)
    if unknown := [arm for arm in arms if arm not in config.arms]:
        raise ConfigError(f"arms = {unknown}: unknown; allowed: {', '.join(config.arms)}")
    if not arms or len(set(arms)) < len(arms):
        raise ConfigError(f"arms = {arms}: give at least one, each once")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds = {list(seeds)}: give at least one, each once")
    result = Plan()
    for seed in seeds:
        planner = _Planner(config, seed, sources or {}, result.specs)
        for arm in arms:
            result.arms.setdefault(arm, {})[seed] = planner.arm(arm)
    return result


def plan_evaluations(
    config: Config, checkpoints: Mapping[str, tuple[str, str]], sources: Mapping[str, str] | None = None
) -> Plan:
    """Nothing but evaluations: each checkpoint is an arm under seed 0 that trains nothing.

    checkpoints: name → (model folder, its content hash). sources: as for ``plan``.
    """
    result = Plan()
    planner = _Planner(config, 0, sources or {}, result.specs)
    for name, (path, content) in checkpoints.items():
        result.arms[name] = {0: planner.checkpoint(path, content)}
    return result


def only_deployed(planned: Plan) -> Plan:
    """The same arms, of whose models only the deployed one is measured."""
    arms = {
        name: {seed: replace(arm, evaluations={"final": arm.evaluations["final"]}) for seed, arm in seeds.items()}
        for name, seeds in planned.arms.items()
    }
    needed = {f for seeds in arms.values() for arm in seeds.values() for f in (*arm.stages, *arm.evaluations.values())}
    return Plan({f: spec for f, spec in planned.specs.items() if f in needed}, arms)


class _Planner:
    """Plans arms under one seed into a shared dictionary of specs."""

    def __init__(self, config: Config, seed: int, sources: Mapping[str, str], specs: dict[str, StageSpec]) -> None:
        self.config, self.seed, self.sources, self.specs = config, seed, sources, specs

    def arm(self, name: str) -> ArmPlan:
        arm = self.config.arms[name]
        data = self._data()
        models: dict[str, str] = {}
        stages = [data]
        evaluations: dict[str, str] = {}
        bridge_starts: list[str] = []  # student before each dense stage

        def model(role: Role) -> str:
            if role not in models:
                models[role] = self._base("student" if arm.teacher == "same_size" else role)
                stages.append(models[role])
            return models[role]

        raw_teacher: str | None = None
        for entry in arm.stages:
            row = STAGES[entry.stage]
            settings = validate(row.config, stage_settings(self.config, entry)).model_dump(mode="json")
            settings["problems"] = entry.problems
            inputs = {"data": data, "policy": model(row.trains)}
            if row.trains == "teacher":
                raw_teacher = raw_teacher or inputs["policy"]
            elif row.reads_teacher:
                bridge_starts.append(inputs["policy"])
            if row.reads_teacher:
                inputs["teacher"] = model("teacher")
            if settings.get("target") == "delta":
                inputs["raw_teacher"] = raw_teacher or inputs["teacher"]
            beside = self._numerics() | self._held() | self._rollouts(entry.stage, settings)
            models[row.trains] = self._add("train", entry.stage, settings | beside, inputs)
            stages.append(models[row.trains])

        deployed = model(STAGES[arm.stages[-1].stage].trains)
        teacher = models.get("teacher") if bridge_starts else None
        if teacher:
            evaluations["cold"] = self._evaluate(data, bridge_starts[0], teacher)
            if len(bridge_starts) > 1:
                evaluations["warm"] = self._evaluate(data, bridge_starts[1], teacher)
            evaluations["teacher"] = self._evaluate(data, teacher)
            if raw_teacher:
                evaluations["raw_teacher"] = self._evaluate(data, raw_teacher)
        evaluations["final"] = self._evaluate(data, deployed, teacher)
        return ArmPlan(tuple(dict.fromkeys(stages)), evaluations, deployed)

    def checkpoint(self, path: str, content: str) -> ArmPlan:
        """The evaluation of a model folder."""
        data = self._data()
        model = self._add("base", "checkpoint", {"model": {"path": path}, "source": content}, {}, seed=0)
        return ArmPlan((data, model), {"final": self._evaluate(data, model)}, model)

    def _data(self) -> str:
        settings = self.config.data.model_dump(mode="json", exclude_none=True)
        if self.config.data.files is not None and self.config.data.files.chat:
            # The chat template is part of the prompt's text.
            settings |= {"chat_tokenizer": self.config.models.student.path}
        return self._add("data", "data", settings | self._source("data"), {})

    def _base(self, role: Role) -> str:
        source = getattr(self.config.models, role)
        name = f"pretrain_{role}"
        if source.scratch is None:
            settings = {"model": source.model_dump(mode="json", exclude_none=True)} | self._source(role)
            return self._add("base", f"base_{role}", settings, {}, seed=0)
        settings = getattr(self.config.stages, name).model_dump(mode="json")
        settings["scratch"] = source.scratch.model_dump(mode="json")
        assert self.config.data.arithmetic is not None
        settings["arithmetic"] = self.config.data.arithmetic.model_dump(mode="json")
        settings |= {"dtype": self.config.training.dtype} | self._held()
        return self._add("train", name, settings, {}, seed=self.seed % self.config.models.pairs)

    def _evaluate(self, data: str, policy: str, teacher: str | None = None) -> str:
        inputs = {"data": data, "policy": policy} | ({"teacher": teacher} if teacher else {})
        settings = self.config.evaluation.model_dump(mode="json") | {"measures": MEASURES}
        # Which seed trained the model is in the inputs; the same test samples are drawn for every model.
        return self._add("evaluate", "evaluate", settings | self._numerics(), inputs, seed=0)

    def _numerics(self) -> dict[str, Any]:
        """The parts of how a stage is executed that can change its numbers."""
        return {"engine": self.config.rollouts.engine, "dtype": self.config.training.dtype}

    def _rollouts(self, stage: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What decides the actor's rollouts besides; absent at its defaults, which leaves fingerprints as they were."""
        rollouts = self.config.rollouts
        if rollouts.staleness and bears_staleness(stage, settings):
            return {"staleness": rollouts.staleness}
        if rollouts.share_teacher and STAGES[stage].actor == "teacher":
            return {"share_teacher": True}
        return {}

    def _held(self) -> dict[str, Any]:
        """What trained weights are held in, where models compute in something else."""
        return {} if self.config.training.dtype == "float32" else {"weights": "float32"}

    def _source(self, name: str) -> dict[str, Any]:
        return {"source": self.sources[name]} if name in self.sources else {}

    def _add(
        self, kind: Kind, name: str, settings: dict[str, Any], inputs: dict[str, str], seed: int | None = None
    ) -> str:
        spec = StageSpec(
            kind=kind,
            name=name,
            settings=settings,
            inputs=inputs,
            seed=self.seed if seed is None else seed,
            execution=self._execution(name),
        )
        return self.specs.setdefault(spec.fingerprint, spec).fingerprint

    def _execution(self, name: str) -> dict[str, Any]:
        config = self.config
        training, rollouts = stage_workers(config, name)
        return {
            "store": config.store,
            "training": training.model_dump(mode="json"),
            "rollouts": rollouts.model_dump(mode="json"),
            "verifier": config.verifier.model_dump(mode="json"),
            "label_budget": config.label_budget or label_count(config, {"all"}),
        }
