"""The plan, for people: what would run and why, what is finished, what it costs. Trains nothing."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from s2d_core.config.checks import label_count
from s2d_core.config.schema import Config
from s2d_core.mirror import Mirror
from s2d_core.plan import Plan
from s2d_core.recipe import spends_labels
from s2d_core.resources.estimate import estimates
from s2d_core.spec import StageSpec
from s2d_core.store import Store
from tasks.reasons import reason_to_run

CACHED = "cached"
MIRRORED = "in the mirror"
FINISHED = (CACHED, MIRRORED)


def reasons(plan: Plan, store: Store, mirror: Mirror | None = None) -> dict[str, str]:
    """Fingerprint → ``cached``, ``in the mirror``, or why the stage must run."""
    copied = mirror.finished([spec for spec in plan.specs.values() if store.result(spec) is None]) if mirror else ()
    found: dict[str, str] = {}
    for fingerprint, spec in plan.specs.items():
        parents = dict.fromkeys(spec.inputs.values())
        running = [plan.specs[parent].name for parent in parents if found[parent] not in FINISHED]
        found[fingerprint] = MIRRORED if fingerprint in copied else reason_to_run(spec, store, running) or CACHED
    return found


def estimated_tokens(spec: StageSpec) -> int:
    """An upper bound on the tokens a stage samples or trains on; the corpus stages' length is not known beforehand."""
    settings = spec.settings
    if spec.kind == "evaluate":
        return 0
    sequences = settings.get("prompts_per_step", 0) * settings.get("group_size", 0)
    return settings.get("steps", 0) * sequences * settings.get("sampling", {}).get("max_tokens", 0)


def labels(spec: StageSpec, config: Config) -> int:
    """Labels a stage will look at: at most its slice, at most what its steps reach."""
    if spec.kind != "train" or not spends_labels(spec.name, spec.settings):
        return 0
    pool = label_count(config, {spec.settings["problems"]})
    return min(pool, spec.settings["steps"] * spec.settings["prompts_per_step"])


def describe(plan: Plan, config: Config, why: Mapping[str, str]) -> str:
    """The plan as text: one line a stage, parents first; where the recipe names its hardware, also what each needs."""
    needs = estimates(config, plan) if config.hardware else {}
    running = [fingerprint for fingerprint, reason in why.items() if reason not in FINISHED]
    named = titles(plan)
    lines = [
        f"plan: {config.name}, {len(plan.arms)} arms, {len(next(iter(plan.arms.values())))} seeds, "
        f"{len(plan.specs)} distinct stages, {len(plan.specs) - len(running)} cached, {len(running)} to run"
    ]
    for fingerprint, spec in plan.specs.items():
        parts = [f"  {'·' if why[fingerprint] in FINISHED else '▶'} {named[fingerprint]:<46} {fingerprint}"]
        if count := labels(spec, config):
            parts.append(f"{count} labels")
        if tokens := estimated_tokens(spec):
            parts.append(f"≤ {tokens:,} tokens")
        lines.append("  ".join([*parts, why[fingerprint]]))
        if fingerprint in needs:
            lines.append(f"      {needs[fingerprint]}; {needs[fingerprint].hours:.2f} h")
    for name, seeds in plan.arms.items():
        chain = " → ".join(plan.specs[f].name for f in next(iter(seeds.values())).stages)
        lines.append(f"  arm {name}: {chain}")
    if (hardware := config.hardware) is not None:
        hours = sum(needs[fingerprint].hours for fingerprint in running if fingerprint in needs)
        lines.append(
            f"  {hours:.1f} h to run on {hardware.devices} × {hardware.device} of {hardware.memory_gb:g} GB. Assumed, "
            f"not measured: training reaches {hardware.training_share:.1%} of {hardware.peak_tflops:g} TFLOP/s, "
            f"sampling {hardware.sampling_share:.1%}; completions are {hardware.mean_length:.0%} as long as they may be"
        )
    return "\n".join(lines)


def plan_rows(plan: Plan, config: Config, why: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row a stage, parents first, for a table."""
    named = titles(plan)
    return [
        {
            "stage": named[fingerprint],
            "why it runs": why[fingerprint],
            "labels": labels(spec, config) or "",
            "tokens, at most": f"{tokens:,}" if (tokens := estimated_tokens(spec)) else "",
            "fingerprint": fingerprint,
        }
        for fingerprint, spec in plan.specs.items()
    ]


def titles(plan: Plan) -> dict[str, str]:
    """Fingerprint → what a stage is called where people read: its name, its seed, and whose it is."""
    users: defaultdict[str, dict[str, None]] = defaultdict(dict)  # a dict for its order
    for arm, seeds in plan.arms.items():
        for each in seeds.values():
            for fingerprint in (*each.stages, *each.evaluations.values()):
                users[fingerprint][arm] = None
    found = {}
    for fingerprint, spec in plan.specs.items():
        subject = plan.specs[spec.inputs["policy"]] if spec.kind == "evaluate" else spec
        name = subject.name if subject is spec else f"evaluate {subject.name}"
        arms = list(users[fingerprint])
        found[fingerprint] = f"{name}, seed {subject.seed}, {', '.join(arms) if len(arms) < 3 else f'{len(arms)} arms'}"
    return found
