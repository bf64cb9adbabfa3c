"""Condition C2, measured: how near the teacher is on sequences that the student sampled itself."""

import math
from typing import Any

import numpy as np
import torch

from s2d_core.losses import token_distances
from s2d_core.rollouts.types import Rollout
from s2d_core.stages.trained import load_frozen
from s2d_core.training import parallel
from s2d_core.training.context import Context
from s2d_core.training.packing import pack, split_by_tokens
from s2d_core.training.verified import example

TOP = 0.01  # of the tokens
EXACT = 32  # positions with a bin of their own; from there on
BINS_A_DOUBLING = 8

Arrays = dict[str, np.ndarray]


@torch.no_grad()
def distance(context: Context, rollouts: list[Rollout]) -> tuple[dict[str, float], dict[str, Any]]:
    """(means over tokens, the KL by position) of this rank's ``rollouts`` and those of all others.

    ``kl_to_teacher``, entropies and ``overlap`` as in ``losses/distances.py``. ``gradient_share``: part of OPD's
    gradient, as the sum of its tokens' lengths, that the largest 1 % of the tokens carry; 0.01 if all weighed alike.
    """
    mine = _of_each_token(context, rollouts)
    shares = parallel.gather(mine)
    tokens = {name: np.concatenate([share[name] for share in shares]) for name in mine}
    means = {name: float(tokens[name].mean()) for name in ("student_entropy", "teacher_entropy", "overlap")}
    metrics = {
        "kl_to_teacher": float(tokens["kl"].mean()),
        "gradient_share": top_share(tokens["gradient"]),
        **means,
    }
    return metrics, {"kl_by_position": by_position(tokens["position"], tokens["kl"])}


def _of_each_token(context: Context, rollouts: list[Rollout]) -> Arrays:
    policy, teacher = (load_frozen(context, role) for role in ("policy", "teacher"))
    examples = [example(rollout) for rollout in rollouts]
    parts: list[Arrays] = []
    for group in split_by_tokens([len(each) for each in examples], context.training.token_budget):
        part = [examples[index] for index in group]
        positions = torch.cat([torch.arange(len(each.completion_ids)) for each in part])
        micro = pack(part, [torch.ones(len(each.completion_ids)) for each in part]).to(parallel.device())
        (ours, our_head), (theirs, their_head) = (model(micro, lambda *pair: pair) for model in (policy, teacher))
        measured = token_distances(
            ours, our_head, theirs, their_head, micro.targets, chunk=context.training.logits_chunk
        )
        arrays = {name: values.cpu().numpy().astype(np.float64) for name, values in measured.items()}
        parts.append(arrays | {"position": positions.numpy()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def top_share(sizes: np.ndarray, top: float = TOP) -> float:
    """Part of the sum of ``sizes`` [tokens] that the largest ``top`` of them make up (at least one); 0 if all are 0."""
    count = max(1, math.ceil(top * len(sizes)))
    largest = np.partition(sizes, len(sizes) - count)[-count:]
    total = float(sizes.sum())
    return float(largest.sum()) / total if total > 0 else 0.0


def by_position(positions: np.ndarray, values: np.ndarray) -> list[dict[str, float]]:
    """Mean of ``values`` [tokens] by position in the completion: each of the first 32, then eight bins a doubling."""
    beyond = EXACT + np.floor(BINS_A_DOUBLING * np.log2(np.maximum(positions, EXACT) / EXACT)).astype(int)
    bins = np.where(positions < EXACT, positions, beyond)
    return [
        {"from": int(positions[chosen].min()), "tokens": int(chosen.sum()), "mean": float(values[chosen].mean())}
        for chosen in (bins == each for each in np.unique(bins))
    ]
