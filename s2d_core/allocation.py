"""Where labels go: of ``labels`` labels a share goes upstream, to the teacher's RL and the bridge, and the rest to RL
on the student itself. Builds the arms as data; share 0 is RL on the cold student, share 1 the bridge alone.

Compute is matched (scale ``steps``): every arm takes as many updates as the ``upstream`` arm of the recipe. The
teacher's share of its RL updates is ``share``, what it leaves goes to the student's RL, the bridge keeps its own; at
share 0 the student's RL takes them all. With scale ``epochs`` each stage instead passes over its slice as often as the
recipe's passes over the whole pool, so that updates grow with labels.

A slice smaller than ``prompts_per_step`` gives fewer prompts a step in larger groups: as many sequences an update.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from s2d_core.config.checks import label_budget
from s2d_core.config.schema import Config
from s2d_core.config.stages import ArmConfig, ArmStage
from s2d_core.data.slices import slice_name
from s2d_core.errors import ConfigError
from s2d_core.recipe import STAGES, stage_settings

Scale = Literal["steps", "epochs"]
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
FEWEST = 64


@dataclass(frozen=True)
class Point:
    """One arm of the study: ``upstream`` of its ``labels`` labels go to the teacher's RL and the bridge."""

    arm: str
    share: float
    labels: int
    upstream: int


def default_counts(most: int) -> list[int]:
    """64, 128, 256, ... and all there are."""
    counts = [FEWEST << power for power in range(most.bit_length()) if FEWEST << power < most]
    return [*counts, most]


def allocation_arms(
    config: Config,
    shares: Sequence[float],
    label_counts: Sequence[int] | None,
    scale: Scale,
    upstream: str,
    downstream: str,
    mixed: str | None = None,
) -> tuple[list[Point], dict[str, ArmConfig]]:
    """The points of the grid and the arm of each.

    upstream, downstream: arms of the recipe whose stages are those of share 1 and of share 0. Between, the stages of
    both follow each other, or those of ``mixed``, which ends with downstream's.
    Raises ConfigError for unknown arms, for shares outside 0..1 and for label counts there are no labels for.
    """
    most = label_budget(config)
    counts = default_counts(most) if label_counts is None else list(label_counts)
    _check(config, shares, counts, most, [upstream, downstream, *([mixed] if mixed else [])])
    bridge, own = config.arms[upstream].stages, config.arms[downstream].stages
    between = config.arms[mixed].stages if mixed else (*bridge, *own)
    if [entry.stage for entry in between[-len(own) :]] != [entry.stage for entry in own]:
        raise ConfigError(f"mixed = {mixed!r}: must end with the stages of {downstream!r}")
    builder = _Builder(config, scale, sum(_steps(config, entry) for entry in bridge))
    points, arms = [], {}
    for labels in counts:
        for share in shares:
            upper = round(share * labels)
            if 0 < share < 1 and upper in (0, labels):
                raise ConfigError(f"shares = {share:g}: of {labels} labels that is none or all; give it more labels")
            point = Point(f"share_{share:g}_of_{labels}", share, labels, upper)
            first = () if share == 0 else bridge if share == 1 else between[: -len(own)]
            last = () if share == 1 else own if share == 0 else between[-len(own) :]
            stages = builder.stages(first, last, point)
            description = f"{upper} of {labels} labels upstream, {labels - upper} to the student's own RL."
            points.append(point)
            arms[point.arm] = ArmConfig(description=description, teacher=config.arms[upstream].teacher, stages=stages)
    return points, arms


class _Builder:
    """``updates``: what every arm takes under scale ``steps``."""

    def __init__(self, config: Config, scale: Scale, updates: int) -> None:
        self.config, self.scale, self.updates = config, scale, updates
        splits = config.data.splits
        self.sizes = (splits.labelled, splits.held_out)

    def stages(self, first: Sequence[ArmStage], last: Sequence[ArmStage], point: Point) -> tuple[ArmStage, ...]:
        """``first`` on the upstream labels and ``last`` on the rest, steps divided between them."""
        of_teacher = [entry for entry in first if STAGES[entry.stage].trains == "teacher"]
        recipe = sum(_steps(self.config, entry) for entry in of_teacher)
        left = self.updates - sum(_steps(self.config, entry) for entry in first) + recipe  # all but the bridge's
        factors = {
            "teacher": point.share * left / recipe if recipe else 1.0,
            "bridge": 1.0,
            "own": (1 - point.share) * left / sum(_steps(self.config, entry) for entry in last) if last else 1.0,
        }
        done = []
        for entry in first:
            part = "teacher" if STAGES[entry.stage].trains == "teacher" else "bridge"
            done.append(self._stage(entry, 0, point.upstream, factors[part]))
        return (*done, *(self._stage(entry, point.upstream, point.labels, factors["own"]) for entry in last))

    def _stage(self, entry: ArmStage, start: int, stop: int, factor: float) -> ArmStage:
        settings, labels = stage_settings(self.config, entry), stop - start
        prompts = min(settings["prompts_per_step"], labels)
        group = round(settings["prompts_per_step"] * settings["group_size"] / prompts)
        if self.scale == "epochs":
            factor = labels / sum(self.sizes) * settings["prompts_per_step"] / prompts
        steps = max(1, round(factor * settings["steps"]))
        chosen = {**entry.set, "steps": steps, "prompts_per_step": prompts, "group_size": group}
        return ArmStage(stage=entry.stage, problems=slice_name(start, stop, *self.sizes), set=chosen)


def _steps(config: Config, entry: ArmStage) -> int:
    return int(stage_settings(config, entry)["steps"])


def _check(config: Config, shares: Sequence[float], counts: Sequence[int], most: int, arms: Sequence[str]) -> None:
    if unknown := [arm for arm in arms if arm not in config.arms]:
        raise ConfigError(f"arms = {unknown}: unknown; allowed: {', '.join(config.arms)}")
    if wrong := [share for share in shares if not 0 <= share <= 1]:
        raise ConfigError(f"shares = {wrong}: must lie between 0 (all to the student) and 1 (all upstream)")
    if wrong := [count for count in counts if not 1 <= count <= most]:
        raise ConfigError(f"label_counts = {wrong}: allowed: 1 to {most}, the labels there are")
    for name, values in (("shares", shares), ("label_counts", counts)):
        if not values or len(set(values)) < len(values):
            raise ConfigError(f"{name} = {list(values)}: give at least one, each once")
