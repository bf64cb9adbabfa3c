"""Groups of rollouts as Parquet files, and generation that goes on from what such files hold. Knows token ids only."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from s2d_core.config.schema import RolloutsConfig
from s2d_core.rollouts.types import Engine, Request, Rollout, Sampling
from s2d_core.spec import fingerprint
from s2d_core.store import whole

logger = logging.getLogger(__name__)

BATCHES_A_SHARD = 4  # what a kill may cost, against engines running idle at the end of each shard
SCHEMA = pa.schema(
    {
        "problem_id": pa.string(),
        "seed": pa.int64(),  # of the request; rows of one request follow each other
        "prompt_ids": pa.list_(pa.int32()),
        "completion_ids": pa.list_(pa.int32()),
        "logprobs": pa.list_(pa.float64()),
        "finish_reason": pa.string(),
    }
)


def write_groups(path: Path, requests: Sequence[Request], groups: Sequence[Sequence[Rollout]]) -> None:
    """Write the rollouts of each request; whatever carries the name ``path`` is whole."""
    rows = [
        {
            "problem_id": request.problem_id,
            "seed": request.seed,
            "prompt_ids": list(request.prompt_ids),
            "completion_ids": rollout.completion_ids,
            "logprobs": rollout.logprobs,
            "finish_reason": rollout.finish_reason,
        }
        for request, group in zip(requests, groups, strict=True)
        for rollout in group
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), partial, compression="zstd")


def read_groups(path: Path) -> dict[Request, list[Rollout]]:
    """What ``write_groups`` wrote, by request."""
    groups: dict[Request, list[Rollout]] = {}
    for row in pq.read_table(path, schema=SCHEMA).to_pylist():
        request = Request(row["problem_id"], tuple(row["prompt_ids"]), row["seed"])
        rollout = Rollout(
            request.problem_id, request.prompt_ids, row["completion_ids"], row["logprobs"], row["finish_reason"]
        )
        groups.setdefault(request, []).append(rollout)
    return groups


def generate_stored(
    engine: Engine, requests: Sequence[Request], sampling: Sampling, directory: Path, shard: int
) -> list[list[Rollout]]:
    """As ``engine.generate``, ``shard`` prompts at a time, each shard on disk before the next one is begun.

    directory: of this model and ``sampling`` alone; what its shards hold already is not sampled again. Prompts are
    taken in order of length, as engines take them, so that a shard of whole batches changes no batch.
    """
    found: dict[Request, list[Rollout]] = {}
    for path in directory.glob("*.parquet"):
        found |= read_groups(path)
    missing = [request for request in sorted(requests, key=lambda r: len(r.prompt_ids)) if request not in found]
    for start in range(0, len(missing), shard):
        part = missing[start : start + shard]
        groups = engine.generate(part, sampling)
        name = fingerprint([[request.problem_id, request.seed] for request in part])
        write_groups(directory / f"{name}.parquet", part, groups)
        found |= zip(part, groups, strict=True)
        done = len(requests) - len(missing) + start + len(part)
        logger.info("rollouts of %d of %d prompts sampled", done, len(requests))
    return [found[request] for request in requests]


def shard_size(config: RolloutsConfig, n: int) -> int:
    """Prompts of a shard when ``n`` completions of each are sampled: whole batches of every engine."""
    return BATCHES_A_SHARD * max(1, config.batch_size // n) * max(1, config.workers)
