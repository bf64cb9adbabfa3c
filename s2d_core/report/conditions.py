"""Conditions C1 and C2 of one arm under one seed, as the report has them."""

import json
from dataclasses import asdict
from typing import Any

from s2d_core import gates
from s2d_core.config.schema import GatesConfig
from s2d_core.plan import ArmPlan
from s2d_core.report.results import Results
from s2d_core.store import DISTANCE

# Where the student's distance to its teacher is measured → the evaluation that measures it.
BRIDGE = {"before": "cold", "after": "warm", "final": "final"}
MEASURES = ("overlap", "student_entropy", "teacher_entropy", "gradient_share")


def conditions(results: Results, arm: ArmPlan, config: GatesConfig) -> dict[str, Any]:
    """C1: what RL gained the teacher (avg@k, interval over problems). C2: KL(student‖teacher) a token on the student's
    rollouts before the bridge, after its warm-up and at the end; under ``bridge`` all that was measured there.
    ``gates``: both as judged where OPD starts. None or empty where an arm has no such thing.
    """
    specs = results.plan.specs
    roles = {role: f for role, f in arm.evaluations.items() if f in results.stages}
    gained = None
    if {"teacher", "raw_teacher"} <= roles.keys():
        gained = gates.gain(results.store, specs[roles["teacher"]], specs[roles["raw_teacher"]])
    bridge = {
        where: _distance(results, roles[role])
        for where, role in BRIDGE.items()
        if role in roles and "teacher" in specs[roles[role]].inputs
    }
    gated = [specs[f] for f in arm.stages if gates.is_gated(specs[f])]
    return {
        "c1_gain": gained and gained.mean,
        "c1_interval": gained and list(gained.interval),
        **{f"c2_kl_{where}": bridge[where]["kl"] if where in bridge else None for where in BRIDGE},
        "bridge": bridge,
        "gates": [asdict(g) for spec in gated[:1] for g in gates.judge(config, results.store, specs, spec)],
    }


def _distance(results: Results, fingerprint: str) -> dict[str, Any]:
    metrics = results.stages[fingerprint].metrics
    table = json.loads((results.directory(fingerprint) / DISTANCE).read_text())
    positions = {
        "position": [row["from"] for row in table["kl_by_position"]],
        "kl": [row["mean"] for row in table["kl_by_position"]],
    }
    return {"kl": metrics["kl_to_teacher"], **{name: metrics[name] for name in MEASURES}, "by_position": positions}
