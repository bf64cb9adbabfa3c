"""A stage's spec (all that decides its result), its fingerprint, and the result it leaves behind. Pure data."""

import hashlib
import json
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

# Raised by hand when a change in the code changes a stage's numbers: finished results are then made anew.
NUMERICS_VERSION = 1

Kind = Literal["data", "base", "train", "evaluate"]


def fingerprint(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of ``value``'s canonical JSON."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class StageSpec(BaseModel):
    """Everything that decides a stage's result, and beside it how to execute it.

    kind: ``data`` writes the dataset; ``base`` imports or pretrains a base model; ``train`` is a row of the
        stage table; ``evaluate`` measures a model.
    name: the row (``teacher_rl``, ...) or what is made (``pretrain_teacher``, ``evaluate``).
    settings: the stage's own part of the configuration, plain JSON.
    inputs: role → fingerprint of the parent stage. Roles: ``data``, ``policy`` (weights to start from or to
        evaluate), ``teacher`` (the frozen teacher).
    execution: where and how it runs (workers, budgets, store); no part of the fingerprint.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    name: str
    settings: dict[str, Any]
    inputs: dict[str, str] = Field(default_factory=dict)
    seed: int
    numerics: int = NUMERICS_VERSION
    execution: dict[str, Any] = Field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.model_dump(exclude={"execution"}, mode="json"))

    @property
    def id(self) -> str:
        """Folder name of the stage in the store."""
        return f"{self.name}-{self.fingerprint}"


class StageResult(BaseModel):
    """What a finished stage leaves in its manifest. ``seconds`` are wall time of the work, start-up left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fingerprint: str
    name: str
    kind: Kind
    model: str | None = None  # folder with the Hugging Face checkpoint, relative to the stage directory
    metrics: dict[str, float] = Field(default_factory=dict)
    labels: int = 0  # distinct problems whose answers were looked at
    label_looks: int = 0
    prompts: int = 0  # distinct prompts used
    tokens: dict[str, int] = Field(default_factory=dict)  # sampled, trained, scored
    seconds: float = 0.0
    device_seconds: float = 0.0
    sizes: dict[str, int] = Field(default_factory=dict)  # file → bytes, so that a truncated result is noticed
