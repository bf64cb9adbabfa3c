"""The stage table. A stage is: who samples × what scores × which loss. A new recipe is a new row."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from s2d_core.config.schema import Config
from s2d_core.config.stages import (
    ArmStage,
    CorpusStage,
    ImitationStage,
    MixedStage,
    OpdStage,
    SparseStage,
    TrainedStage,
    WarmupStage,
)
from s2d_core.errors import ConfigError

Actor = Literal["corpus", "policy", "teacher"]
Signal = Literal["none", "verifier", "teacher", "both"]
Loss = Literal["nll", "policy_gradient", "divergence", "mixed"]
Role = Literal["teacher", "student"]


@dataclass(frozen=True)
class Row:
    """One kind of stage: ``actor`` samples, ``signal`` scores, ``loss`` is descended by the model ``trains``."""

    trains: Role
    actor: Actor
    signal: Signal
    loss: Loss
    config: type[TrainedStage]

    @property
    def reads_teacher(self) -> bool:
        return self.actor == "teacher" or self.signal in ("teacher", "both")


STAGES: dict[str, Row] = {
    "pretrain_teacher": Row("teacher", actor="corpus", signal="none", loss="nll", config=CorpusStage),
    "pretrain_student": Row("student", actor="corpus", signal="none", loss="nll", config=CorpusStage),
    "teacher_rl": Row("teacher", actor="policy", signal="verifier", loss="policy_gradient", config=SparseStage),
    "teacher_sft": Row("teacher", actor="teacher", signal="verifier", loss="nll", config=ImitationStage),
    "warmup": Row("student", actor="teacher", signal="teacher", loss="divergence", config=WarmupStage),
    "sft": Row("student", actor="teacher", signal="none", loss="nll", config=ImitationStage),
    "opd": Row("student", actor="policy", signal="teacher", loss="divergence", config=OpdStage),
    "mixed": Row("student", actor="policy", signal="both", loss="mixed", config=MixedStage),
    "student_rl": Row("student", actor="policy", signal="verifier", loss="policy_gradient", config=SparseStage),
}


def stage_settings(config: Config, entry: ArmStage) -> dict[str, Any]:
    """The stage's own configuration with the arm's ``set`` applied, as plain unvalidated values."""
    stage = getattr(config.stages, entry.stage)
    if stage is None:
        raise ConfigError(f"stages.{entry.stage}: missing; an arm has this stage, so give its settings")
    values: dict[str, Any] = stage.model_dump(mode="json")
    for dotted, value in entry.set.items():
        *parents, leaf = dotted.split(".")
        target = values
        for part in parents:
            target[part] = target.get(part) or {}
            target = target[part]
        target[leaf] = value
    return values


def bears_staleness(stage: str, settings: Mapping[str, Any]) -> bool:
    """Whether the stage can learn from its policy's rollouts of an update ago: its policy gradient corrects for that,
    its divergence is no estimate from the sampled token, and no further prompts must be sampled in the same step."""
    sparse, dense = settings.get("policy_gradient"), settings.get("divergence")
    if STAGES[stage].actor != "policy":
        return False
    if sparse and (sparse["truncated_importance_cap"] is None or sparse.get("refill_rounds")):
        return False
    return not dense or dense["estimator"] != "sampled_token"


def spends_labels(stage: str, settings: Mapping[str, Any]) -> bool:
    """Whether the stage looks at answers: for its reward, or to learn what the student can do already."""
    return (
        STAGES[stage].signal in ("verifier", "both")
        or settings.get("weighting") == "pass_rate"
        or settings.get("trek") is not None
    )
