"""What Ray reserves for the workers of a stage."""

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from s2d_core.config.base import Strict

Amounts = dict[str, Annotated[float, Field(gt=0)]]


class WorkersConfig(Strict):
    """Equal workers and what is reserved for each of them."""

    workers: int
    cpus_per_worker: float = Field(1.0, gt=0)
    gpus_per_worker: float = Field(0.0, ge=0)
    # Custom resources of the cluster's nodes, for example {"accelerator_type:H100": 0.001}.
    resources_per_worker: Amounts = Field(default_factory=dict)

    @field_validator("resources_per_worker")
    @classmethod
    def _custom(cls, amounts: Amounts) -> Amounts:
        if taken := {"CPU", "GPU"} & set(amounts):
            raise ValueError(f"{', '.join(sorted(taken))}: give cpus_per_worker or gpus_per_worker instead")
        return amounts

    @model_validator(mode="after")
    def _whole(self) -> "WorkersConfig":
        if self.gpus_per_worker > 1 and self.gpus_per_worker % 1:
            raise ValueError(f"gpus_per_worker = {self.gpus_per_worker:g}: a share of one GPU, or a whole number")
        return self

    @property
    def reserved(self) -> dict[str, float]:
        """For one worker, by the names Ray has for them."""
        gpus = {"GPU": self.gpus_per_worker} if self.gpus_per_worker else {}
        return {"CPU": self.cpus_per_worker, **gpus, **self.resources_per_worker}


class OwnWorkers(Strict):
    """What one stage has instead of what ``training`` or ``rollouts`` says for all. None: the same."""

    workers: int | None = None
    cpus_per_worker: float | None = None
    gpus_per_worker: float | None = None
    resources_per_worker: Amounts | None = None


class StageResources(Strict):
    training: OwnWorkers = OwnWorkers()
    rollouts: OwnWorkers = OwnWorkers()
