"""Checks that no single key can make: combinations of arms, labels, models and data that cannot work."""

from collections.abc import Iterator

from s2d_core.config.resources import StageResources
from s2d_core.config.schema import Config
from s2d_core.config.stages import ArmConfig, TrainedStage
from s2d_core.data.slices import slice_range
from s2d_core.errors import ConfigError


def check(config: Config) -> None:
    """Raises ConfigError naming every impossible combination in ``config``."""
    problems = [*_models(config), *_budget(config), *_evaluation(config), *_resources(config), *_transfer(config)]
    for name, arm in config.arms.items():
        problems += _arm(config, name, arm)
    problems += _contrasts(config)
    if unknown := [name for name in config.default_arms or () if name not in config.arms]:
        problems.append(f"default_arms = {unknown}: unknown; allowed: {', '.join(config.arms)}")
    if problems:
        raise ConfigError("\n".join(problems))


def label_count(config: Config, slices: set[str]) -> int:
    """Distinct labels in the union of label slices."""
    splits = config.data.splits
    return len({position for name in slices for position in slice_range(name, splits.labelled, splits.held_out)})


def label_budget(config: Config) -> int:
    """Labels that an arm may look at."""
    return config.label_budget or label_count(config, {"all"})


def _models(config: Config) -> Iterator[str]:
    for role in ("teacher", "student"):
        if getattr(config.models, role).scratch is None:
            continue
        if getattr(config.stages, f"pretrain_{role}") is None:
            yield f"stages.pretrain_{role}: missing; models.{role} is trained from scratch and needs this stage"
        if config.data.arithmetic is None:
            yield (
                f"models.{role}.scratch: only the small world (data.arithmetic) has a corpus to pretrain on; "
                f"give models.{role}.path instead"
            )

    files = config.data.files
    if files is not None and files.chat and config.models.student.path is None:
        yield "data.files.chat = True: the chat template comes with models.student.path; give it or set chat=false"


def _budget(config: Config) -> Iterator[str]:
    pool = label_count(config, {"all"})
    if config.label_budget is not None and config.label_budget > pool:
        yield (
            f"label_budget = {config.label_budget}: over the {pool} labels there are "
            "(data.splits.labelled + data.splits.held_out)"
        )


def _evaluation(config: Config) -> Iterator[str]:
    if getattr(config.data.splits, config.evaluation.split) == 0:
        yield f"evaluation.split = {config.evaluation.split!r}: data.splits.{config.evaluation.split} is 0; raise it"


def _resources(config: Config) -> Iterator[str]:
    """Workers that a stage has of its own: of a stage there is, and possible together with what all stages share."""
    from s2d_core.config.compose import validate
    from s2d_core.workers import COMPUTING, with_own

    for stage, own in config.resources.items():
        if stage not in COMPUTING:
            yield f"resources.{stage}: no such stage; allowed: {', '.join(COMPUTING)}"
            continue
        for part in ("training", "rollouts"):
            shared = getattr(config, part)
            try:
                validate(type(shared), with_own(shared, getattr(own, part)), f"resources.{stage}.{part}")
            except ConfigError as error:
                yield str(error)


def _transfer(config: Config) -> Iterator[str]:
    """Weights go from GPU to GPU where the trainer has one too, and within a GPU where it is the same one."""
    from s2d_core.workers import with_own

    kind = config.rollouts.weight_transfer
    owns = {"": StageResources()} | {f"resources.{stage}.": own for stage, own in config.resources.items()}
    for where, own in owns.items() if kind != "host" else ():
        training, rollouts = with_own(config.training, own.training), with_own(config.rollouts, own.rollouts)
        gpus, theirs = training["gpus_per_worker"], rollouts["gpus_per_worker"]
        if not gpus:
            yield (
                f"{where}training.gpus_per_worker = 0 with rollouts.weight_transfer = {kind!r}: weights are sent from "
                "the training worker's GPU; give it one, or set rollouts.weight_transfer=host"
            )
        elif kind == "ipc" and (training["workers"] > 1 or gpus + theirs > 1):
            yield (
                f"{where}training.workers = {training['workers']} and gpus_per_worker = {gpus:g} beside "
                f"{theirs:g} of a rollout worker, with rollouts.weight_transfer = 'ipc': one training worker and one "
                "rollout worker share a GPU; let their gpus_per_worker sum to 1, or use nccl"
            )


def _contrasts(config: Config) -> Iterator[str]:
    """Arms that contrasts, trial counts and the allocation curve speak of must exist; names of contrasts are unique."""
    allowed = f"allowed: {', '.join(config.arms)}"
    names = [contrast.name for contrast in config.contrasts]
    for index, contrast in enumerate(config.contrasts):
        for arm in contrast.arms:
            if arm not in config.arms:
                yield f"contrasts.{index}.arms = {list(contrast.arms)}: unknown arm {arm!r}; {allowed}"
        if names.count(contrast.name) > 1:
            yield f"contrasts.{index}.name = {contrast.name!r}: used twice; give each contrast a name of its own"
    for arm in config.learning_rate_trials or ():
        if arm not in config.arms:
            yield f"learning_rate_trials.{arm}: unknown arm; {allowed}"
    if unknown := [arm for arm in config.allocation if arm not in config.arms]:
        yield f"allocation = {unknown}: unknown; {allowed}"


def _arm(config: Config, name: str, arm: ArmConfig) -> Iterator[str]:
    from s2d_core.config.compose import validate
    from s2d_core.recipe import STAGES, spends_labels, stage_settings

    spent: set[str] = set()
    raw = arm.teacher == "raw"
    teacher_ready = raw
    for index, entry in enumerate(arm.stages):
        where = f"arms.{name}.stages.{index}"
        row = STAGES[entry.stage]
        if entry.problems == "held_out" and config.data.splits.held_out == 0:
            yield f"{where}.problems = 'held_out': data.splits.held_out is 0; allowed: labelled, all"
        if row.trains == "student" and row.reads_teacher and not teacher_ready:
            yield (
                f"{where}.stage = {entry.stage!r}: a dense stage without a teacher; put teacher_rl before it, "
                f"or set arms.{name}.teacher=raw to distil the untrained one"
            )
        if row.trains == "teacher" and raw:
            yield f"{where}.stage = {entry.stage!r}: trains the teacher of an arm with arms.{name}.teacher=raw"
        teacher_ready = teacher_ready or row.trains == "teacher"
        try:
            settings = stage_settings(config, entry)
            stage: TrainedStage = validate(row.config, settings, f"{where}.set")
            if spends_labels(entry.stage, settings):
                spent.add(entry.problems)
        except ConfigError as error:
            yield str(error)
            continue
        pool = label_count(config, {entry.problems})
        wanted = getattr(stage, "prompts_per_step", 0)
        if wanted > pool:
            yield f"stages.{entry.stage}.prompts_per_step = {wanted}: over the {pool} problems of {entry.problems!r}"
    if (cost := label_count(config, spent)) > label_budget(config):
        yield f"arms.{name}: looks at {cost} labels, over label_budget = {label_budget(config)}"
