"""The stage table. A stage is: who samples × what scores × which loss. A new recipe is a new row."""

from dataclasses import dataclass
from typing import Any, Literal

from s2d_core.config.schema import ArmStage, Config, CorpusStage, DenseStage, SparseStage, TrainedStage

Actor = Literal["corpus", "policy", "teacher"]
Signal = Literal["none", "verifier", "teacher"]
Loss = Literal["nll", "policy_gradient", "divergence"]
Role = Literal["teacher", "student"]


@dataclass(frozen=True)
class Row:
    """One kind of stage: ``actor`` samples, ``signal`` scores, ``loss`` is descended by the model ``trains``."""

    trains: Role
    actor: Actor
    signal: Signal
    loss: Loss

    @property
    def spends_labels(self) -> bool:
        return self.signal == "verifier"

    @property
    def config_class(self) -> type[TrainedStage]:
        classes: dict[Signal, type[TrainedStage]] = {
            "none": CorpusStage,
            "verifier": SparseStage,
            "teacher": DenseStage,
        }
        return classes[self.signal]


STAGES: dict[str, Row] = {
    "pretrain_teacher": Row(trains="teacher", actor="corpus", signal="none", loss="nll"),
    "pretrain_student": Row(trains="student", actor="corpus", signal="none", loss="nll"),
    "teacher_rl": Row(trains="teacher", actor="policy", signal="verifier", loss="policy_gradient"),
    "warmup": Row(trains="student", actor="teacher", signal="teacher", loss="divergence"),
    "opd": Row(trains="student", actor="policy", signal="teacher", loss="divergence"),
    "student_rl": Row(trains="student", actor="policy", signal="verifier", loss="policy_gradient"),
}


def stage_settings(config: Config, entry: ArmStage) -> dict[str, Any]:
    """The stage's own configuration with the arm's ``set`` applied, as plain unvalidated values."""
    values = getattr(config.stages, entry.stage).model_dump(mode="json")
    for dotted, value in entry.set.items():
        *parents, leaf = dotted.split(".")
        target = values
        for part in parents:
            target = target.setdefault(part, {})
        target[leaf] = value
    return values
