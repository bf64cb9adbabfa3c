"""What an arm's training costs in floating-point operations, from the tokens that its stages counted.

2 N a token for a forward pass of a model of N parameters, 6 N for forward and backward (Kaplan et al., 2020, arXiv
2001.08361, §2.1): sampling is forward passes of the actor, training forward and backward of the policy, a dense signal
one forward pass of every frozen model it reads. Left out: attention over the context, passes made once before the
first step (pass rates, choice of proposals). Base models cost nothing: they are given.
"""

from functools import cache
from math import prod
from pathlib import Path

from safetensors import safe_open

from s2d_core.recipe import STAGES
from s2d_core.report.results import Results

FORWARD, TRAINING = 2, 6


def training_flops(results: Results, fingerprint: str) -> float:
    """Floating-point operations of one finished stage; 0 for data and base models."""
    spec = results.plan.specs[fingerprint]
    row = STAGES.get(spec.name)
    if row is None or row.actor == "corpus":
        return 0.0
    size = {role: parameters(results.model(parent)) for role, parent in spec.inputs.items() if role != "data"}
    frozen = size["teacher"] if row.signal in ("teacher", "both") else 0
    if "raw_teacher" in size:  # a delta target also reads the policy that the stage starts from
        frozen += size["raw_teacher"] + size["policy"]
    if spec.settings.get("policy_gradient", {}).get("kl_coefficient"):
        frozen += size["policy"]
    tokens = results.stages[fingerprint].tokens
    trained = tokens.get("trained", 0) * (TRAINING * size["policy"] + FORWARD * frozen)
    return float(tokens.get("sampled", 0) * FORWARD * size[row.actor] + trained)


@cache
def parameters(folder: Path) -> int:
    """Parameters of the model saved in ``folder``, tied ones counted once; read from the headers alone."""
    count = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            count += sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return count
