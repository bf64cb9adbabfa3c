"""The frozen teacher's likeliest tokens at each token of its stored rollouts, on disk for every student that comes."""

import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from s2d_core.losses import top_k_logprobs
from s2d_core.rollouts.files import read_groups
from s2d_core.rollouts.top_k import stored_rows, top_k_path, write_top_k
from s2d_core.rollouts.types import Request, Rollout
from s2d_core.training import parallel
from s2d_core.training.packing import IDLE, Example, pack, split_by_tokens
from s2d_core.training.policy import Policy
from s2d_core.training.verified import example

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TeacherTopK:
    """Adds to shards of rollouts the teacher's ``k`` likeliest of the ``vocab`` tokens that the student has.

    load: makes the teacher, sharded over the ranks. token_budget, chunk: tokens and rows of logits read at once.
    """

    load: Callable[[], Policy]
    k: int
    vocab: int
    token_budget: int
    chunk: int

    def stored(self, directory: Path, requests: Sequence[Request]) -> list[list[Rollout]]:
        """This rank's ``requests``' rollouts from the shards in ``directory``, with their ``teacher`` set. Collective.

        The teacher is loaded only where a shard lacks its file, and is gone afterwards.
        """
        # When every rank has said what it wants, every rank's shards are there.
        wanted = {request for share in parallel.gather(list(requests)) for request in share}
        paths = parallel.gather(sorted(directory.glob("*.parquet")))[0]
        read = {path: read_groups(path) for path in paths}
        shards = {path: groups for path, groups in read.items() if groups.keys() & wanted}
        rollouts = {path: [each for group in groups.values() for each in group] for path, groups in shards.items()}
        missing = parallel.gather([path for path in shards if not self._file(path).exists()])[0]
        if missing:
            mine = missing[parallel.rank() :: parallel.world_size()]
            self._ask_teacher({path: [example(each) for each in rollouts[path]] for path in mine})
            gc.collect()  # a sharded model refers to itself
            parallel.barrier()
        for path, members in rollouts.items():
            lengths = [len(each.completion_ids) for each in members]
            for rollout, rows in zip(members, stored_rows(self._file(path), lengths), strict=True):
                rollout.teacher = rows
        found = {request: group for groups in shards.values() for request, group in groups.items()}
        return [found[request] for request in requests]

    def _file(self, shard: Path) -> Path:
        return top_k_path(shard, self.k, self.vocab)

    def _ask_teacher(self, shards: Mapping[Path, Sequence[Example]]) -> None:
        """Write the files of this rank's ``shards``. Ranks read equally often: a sharded model is collective."""
        teacher = self.load()
        split = {p: split_by_tokens([len(each) for each in part], self.token_budget) for p, part in shards.items()}
        passes = sum(len(groups) for groups in split.values())
        idle = max(parallel.gather(passes)) - passes
        for done, (path, examples) in enumerate(shards.items(), 1):
            parts: dict[int, tuple[Tensor, Tensor]] = {}
            for group in split[path]:
                parts |= zip(group, self._likeliest(teacher, [examples[index] for index in group]), strict=True)
            ids, logprobs = zip(*(parts[index] for index in range(len(examples))), strict=True)
            write_top_k(self._file(path), torch.cat(ids), torch.cat(logprobs))
            logger.info("teacher's top %d of %d of %d shards are stored", self.k, done, len(shards))
        for _ in range(idle):
            self._likeliest(teacher, [IDLE])

    @torch.no_grad()
    def _likeliest(self, teacher: Policy, examples: Sequence[Example]) -> list[tuple[Tensor, Tensor]]:
        """For each example (token ids, log-probabilities), [completion tokens, k], in the host's memory."""
        lengths = [len(each.completion_ids) for each in examples]
        micro = pack(examples, [torch.zeros(length) for length in lengths]).to(parallel.device())
        ids, logprobs = teacher(
            micro, lambda hidden, head: top_k_logprobs(hidden, head[: self.vocab], self.k, chunk=self.chunk)
        )
        return list(zip(ids.int().cpu().split(lengths), logprobs.float().cpu().split(lengths), strict=True))
