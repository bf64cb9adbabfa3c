"""What each stage of a plan needs: memory at its peak, tokens, hours; and whether the hardware has it.

An upper bound for memory and tokens. Hours assume the shares of the peak and the mean length that ``hardware`` states.
"""

from dataclasses import dataclass

from s2d_core.config.checks import label_count
from s2d_core.config.schema import Config, HardwareConfig
from s2d_core.errors import ResourceError
from s2d_core.plan import Plan
from s2d_core.recipe import STAGES
from s2d_core.resources import memory
from s2d_core.resources.jobs import actor, engine, geometry, longest, sequences_per_step, training_job
from s2d_core.resources.memory import Parts, Precision
from s2d_core.spec import StageSpec

GB, GIB, TERA, HOUR = 1e9, 1 << 30, 1e12, 3600.0
FORWARD, TRAINED, RECOMPUTED = 2, 6, 8  # floating-point operations for each parameter and token

# What to change, by the part that is largest.
REMEDIES = {
    "weights": "raise training.workers",
    "gradients": "raise training.workers",
    "optimiser": "raise training.workers, or set training.offload=true",
    "frozen models": "raise training.workers",
    "engine": "give rollouts workers of their own (rollouts.workers)",
    "activations": "set training.activation_checkpointing=true, or lower training.token_budget",
    "logits": "lower training.logits_chunk",
    "KV cache": "lower rollouts.batch_size",
    "gathered": "choose a smaller model",
}


@dataclass(frozen=True)
class Estimate:
    """moment, parts: where one device's memory peaks, and the bytes it is made of. Tokens; hours of all devices
    together, 0 where no hardware is named."""

    moment: str
    parts: Parts
    tokens_sampled: int
    tokens_trained: int
    hours: float

    @property
    def memory(self) -> float:
        return sum(self.parts.values())

    def __str__(self) -> str:
        shown = sorted(((name, size) for name, size in self.parts.items() if size), key=lambda item: -item[1])
        parts = ", ".join(f"{name} {_size(size)}" for name, size in shown)
        return f"{_size(self.memory)} at {self.moment}: {parts}"


def estimates(config: Config, plan: Plan) -> dict[str, Estimate]:
    """Fingerprint → what the stage needs; stages that run no model are left out.

    Raises CheckpointError when the geometry of a base model cannot be read.
    """
    found = {}
    for fingerprint, spec in plan.specs.items():
        if spec.kind == "train":
            found[fingerprint] = _training(config, plan, spec)
        elif spec.kind == "evaluate":
            found[fingerprint] = _evaluation(config, plan, spec)
    return found


def check_fits(config: Config, plan: Plan) -> None:
    """Raises ResourceError naming each stage that the hardware has no room for, and the setting to change."""
    hardware = config.hardware
    if hardware is None:
        return
    if config.training.workers > hardware.devices:
        raise ResourceError(
            f"training.workers = {config.training.workers}: hardware.devices is {hardware.devices}; one worker trains "
            "on each device, so lower it"
        )
    room = hardware.memory_gb * GB * (1.0 - hardware.reserved)
    problems = {
        plan.specs[fingerprint].name: _too_large(plan.specs[fingerprint].name, found, room, hardware)
        for fingerprint, found in estimates(config, plan).items()
        if found.memory > room
    }
    problems |= {name: words for name, words in _wrong_shares(config, plan, hardware).items() if name not in problems}
    if problems:
        raise ResourceError("\n".join(problems.values()))


def _wrong_shares(config: Config, plan: Plan, hardware: HardwareConfig) -> dict[str, str]:
    """What is wrong with the share of a trainer's device that vLLM takes for itself, whatever it needs; by stage."""
    if config.rollouts.engine != "vllm" or not config.training.gpus_per_worker:
        return {}
    room, share = hardware.memory_gb * GB * (1.0 - hardware.reserved), config.rollouts.gpu_memory_utilization
    problems = {}
    for spec in plan.specs.values():
        job = training_job(config, plan, spec) if spec.kind == "train" else None
        if job is None or job.engine is None:
            continue
        sampler = memory.sampling(job.engine, job.precision)
        needs = memory.engine_weights(job.engine, job.precision) + sum(sampler.values())
        beside = sum(memory.moments(job)["sample"].values()) - needs
        taken = share * hardware.memory_gb * GB
        if not needs <= taken <= room - beside:
            least, most = (size / hardware.memory_gb / GB for size in (needs, room - beside))
            problems[spec.name] = (
                f"{spec.name}: vLLM takes rollouts.gpu_memory_utilization = {share:g} of a {hardware.device}, "
                f"{_size(taken)}; it needs {_size(needs)}, and {_size(beside)} beside it are the trainer's. "
                f"Set it between {least:.2f} and {most:.2f}"
            )
    return problems


def _too_large(name: str, found: Estimate, room: float, hardware: HardwareConfig) -> str:
    return (
        f"{name} needs {found}; a {hardware.device} of {hardware.memory_gb:g} GB has room for {_size(room)} "
        f"(hardware.reserved = {hardware.reserved:g}). {remedy(found)}"
    )


def remedy(found: Estimate) -> str:
    """What to change, as the beginning of a sentence."""
    words = REMEDIES[max(found.parts, key=lambda part: found.parts[part])]
    return words[0].upper() + words[1:]


def _training(config: Config, plan: Plan, spec: StageSpec) -> Estimate:
    job = training_job(config, plan, spec)
    moment, parts = memory.peak(job)
    sampled, trained = _tokens(config, spec)
    learning = (RECOMPUTED if job.checkpointing else TRAINED) * job.model.parameters
    reading = sum(FORWARD * each.parameters for each in job.frozen)
    once = FORWARD * job.ahead.parameters * sampled if job.ahead else 0.0
    sampling = FORWARD * actor(plan, spec).parameters * sampled if sampled else 0.0
    training = (learning + reading) * trained + once
    return Estimate(moment, parts, sampled, trained, _hours(config.hardware, training, sampling))


def _evaluation(config: Config, plan: Plan, spec: StageSpec) -> Estimate:
    """Sampling alone; the distance to the teacher, read afterwards, needs less."""
    settings, precision = spec.settings, Precision.of(config.training.dtype)
    completions = getattr(config.data.splits, settings["split"]) * (settings["k"] + 1)
    sampler = engine(config, plan, spec, completions)
    parts = {"weights": sampler.model.parameters * precision.compute, **memory.sampling(sampler, precision)}
    sampled = completions * settings["sampling"]["max_tokens"]
    work = FORWARD * geometry(plan, spec).parameters * sampled
    return Estimate("sample", parts, sampled, 0, _hours(config.hardware, 0.0, work))


def _tokens(config: Config, spec: StageSpec) -> tuple[int, int]:
    """(sampled, trained): at most so many."""
    settings, row = spec.settings, STAGES[spec.name]
    sequences = settings["steps"] * sequences_per_step(spec)
    trained = sequences * longest(config, spec)
    if row.actor == "corpus":
        return 0, trained
    if row.actor == "teacher":  # sampled once, then used again
        sequences = min(sequences, label_count(config, {settings["problems"]}) * settings["group_size"])
    return sequences * settings["sampling"]["max_tokens"], trained


def _hours(hardware: HardwareConfig | None, training: float, sampling: float) -> float:
    """training, sampling: floating-point operations at full length."""
    if hardware is None:
        return 0.0
    rate = hardware.devices * hardware.peak_tflops * TERA
    seconds = training / hardware.training_share + sampling / hardware.sampling_share
    return hardware.mean_length * seconds / rate / HOUR


def _size(count: float) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / (1 << 20):.1f} MiB"
