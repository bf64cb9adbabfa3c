"""The paper's two conditions as gates before on-policy distillation: is this teacher worth being near to, and near?

C1  the teacher is shaped by the reward: what RL gained it on held-out problems. Passed when the 95 % interval of the
    gain lies at or above ``gates.c1_min_gain`` points. Not asked where the raw teacher is distilled on purpose.
C2  the teacher is near: mean KL(student‖teacher) a token on the student's rollouts, where OPD starts, that is after the
    warm-up if there is one. Passed when it is at most ``gates.c2_max_kl`` nats.

With ``gates.on_failure=stop`` an OPD stage waits for these measurements and does not start after a failed one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from s2d_core.config.schema import GatesConfig
from s2d_core.errors import GateError
from s2d_core.evaluation.comparison import Estimate, compare
from s2d_core.evaluation.samples import per_problem, read_lines
from s2d_core.recipe import STAGES
from s2d_core.spec import StageSpec
from s2d_core.store import Store

Specs = Mapping[str, StageSpec]


@dataclass(frozen=True)
class Gate:
    """One condition at one OPD stage. value, threshold: points of avg@k for C1, nats a token for C2."""

    name: Literal["C1", "C2"]
    value: float
    threshold: float
    passed: bool
    detail: str

    def __str__(self) -> str:
        return f"{self.name} {'passed' if self.passed else 'failed'}: {self.detail}"


def is_gated(spec: StageSpec) -> bool:
    """OPD, alone or mixed with reward: the policy samples and a teacher scores."""
    row = STAGES.get(spec.name)
    return row is not None and row.actor == "policy" and row.reads_teacher


def measurements(specs: Specs, stage: StageSpec) -> dict[str, str]:
    """Evaluations that the gates of an OPD stage are read from: ``student`` (where it starts), ``teacher`` and,
    when the teacher was trained, ``raw_teacher``; role → fingerprint."""
    teacher = stage.inputs["teacher"]
    wanted = {"student": {"policy": stage.inputs["policy"], "teacher": teacher}, "teacher": {"policy": teacher}}
    if raw := specs[teacher].inputs.get("policy"):
        wanted["raw_teacher"] = {"policy": raw}
    return {
        role: fingerprint
        for fingerprint, spec in specs.items()
        for role, inputs in wanted.items()
        if spec.kind == "evaluate" and spec.inputs.items() - {("data", stage.inputs["data"])} == inputs.items()
    }


def judge(config: GatesConfig, store: Store, specs: Specs, stage: StageSpec) -> list[Gate]:
    """The gates of an OPD stage, as far as their measurements are finished."""
    found = measurements(specs, stage)
    results = {role: store.result(specs[fingerprint]) for role, fingerprint in found.items()}
    gates = []
    if results.get("teacher") and results.get("raw_teacher"):
        gates.append(_c1(config, gain(store, specs[found["teacher"]], specs[found["raw_teacher"]])))
    if student := results.get("student"):
        gates.append(_c2(config, student.metrics["kl_to_teacher"]))
    return gates


def require(config: GatesConfig, store: Store, specs: Specs, stage: StageSpec) -> None:
    """Raises GateError when a gate of ``stage`` failed and the recipe says to stop."""
    if config.on_failure == "stop" and is_gated(stage):
        failed = [str(gate) for gate in judge(config, store, specs, stage) if not gate.passed]
        if failed:
            raise GateError(
                f"{stage.id} was not started: {'; '.join(failed)}; gates.on_failure=warn goes on regardless"
            )


def gain(store: Store, trained: StageSpec, raw: StageSpec) -> Estimate:
    """What training gained a model, from two finished evaluations on the same problems; interval over problems."""
    values = [per_problem(read_lines(store.dir(spec) / "samples.jsonl")) for spec in (trained, raw)]
    return compare(values[0][None], values[1][None])


def _c1(config: GatesConfig, gained: Estimate) -> Gate:
    low, high = (100 * bound for bound in gained.interval)
    detail = (
        f"RL gained the teacher {100 * gained.mean:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f} "
        f"(gates.c1_min_gain = {config.c1_min_gain:g})"
    )
    return Gate("C1", 100 * gained.mean, config.c1_min_gain, low >= config.c1_min_gain, detail)


def _c2(config: GatesConfig, kl: float) -> Gate:
    detail = f"KL(student‖teacher) is {kl:.3g} nats a token where OPD starts (gates.c2_max_kl = {config.c2_max_kl:g})"
    return Gate("C2", kl, config.c2_max_kl, kl <= config.c2_max_kl, detail)
