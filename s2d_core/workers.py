"""What a stage takes of the cluster: the workers that the configuration gives it, and what they reserve."""

from collections import Counter
from typing import Any

from s2d_core.config.resources import OwnWorkers, StageResources, WorkersConfig
from s2d_core.config.schema import Config, RolloutsConfig, TrainingConfig
from s2d_core.recipe import STAGES

# Stages that compute. The others, data and imported base models, only read and write files.
COMPUTING = (*STAGES, "evaluate")


def stage_workers(config: Config, stage: str) -> tuple[TrainingConfig, RolloutsConfig]:
    """``training`` and ``rollouts`` as they are for the stage of this name."""
    if stage not in COMPUTING:
        none = {"gpus_per_worker": 0.0, "resources_per_worker": {}}
        return (
            config.training.model_copy(update={"workers": 1, **none}),
            config.rollouts.model_copy(update={"workers": 0, **none}),
        )
    own = config.resources.get(stage, StageResources())
    return (
        TrainingConfig.model_validate(with_own(config.training, own.training)),
        RolloutsConfig.model_validate(with_own(config.rollouts, own.rollouts)),
    )


def with_own(shared: WorkersConfig, own: OwnWorkers) -> dict[str, Any]:
    """``shared`` with a stage's own values in their place, not validated."""
    return shared.model_dump() | own.model_dump(exclude_none=True)


def reserved(training: TrainingConfig, rollouts: RolloutsConfig) -> dict[str, float]:
    """What a stage takes in all: its training workers and its rollout workers."""
    total: Counter[str] = Counter()
    for each, count in ((training, training.workers), (rollouts, rollouts.workers)):
        total.update({name: count * amount for name, amount in each.reserved.items()})  # type: ignore[arg-type]
    return dict(total)
