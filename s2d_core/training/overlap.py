"""Rollouts of the next step sampled while this one trains: one update behind the policy, never more.

    weights  W0        W1        W2
    train    batch 0   batch 1   batch 2
    sample   batch 1   batch 2   batch 3      by W0, W1, W2; batch 0, by W0, is waited for

What is stale is decided by the step, not by the clock: batch t is sampled by the weights before update t, whichever
side is faster. It is off-policy by that one update. The policy gradient corrects for it by truncated importance
sampling, the sampler's log-probabilities being part of each rollout. Full-vocabulary divergences need no correction:
at each prefix they are exact, and only where prefixes come from is an update old.

A batch sampled ahead is written beside the checkpoint it belongs to, for the weights it came from are gone: a resumed
stage reads it and ends with the same numbers, on whatever number of ranks.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from s2d_core.rollouts.files import read_groups, write_groups
from s2d_core.rollouts.types import Request, Rollout
from s2d_core.training import parallel

Groups = list[list[Rollout]]


class Overlap:
    """``take`` each step in turn. Between ``take`` and ``settle`` the sampler may be busy and must be left alone."""

    def __init__(
        self,
        sample: Callable[[Sequence[Request]], Groups],
        requests: Callable[[int], list[Request]],
        steps: int,
        directory: Path,
    ) -> None:
        """sample: by this rank's engine. requests: step → this rank's share of it. directory: for ``keep``."""
        self._sample, self._requests, self._steps, self._directory = sample, requests, steps, directory
        self._thread = ThreadPoolExecutor(1, "rollouts", _gpu_of, (parallel.device(),))
        self._ahead: Future[Groups] | None = None  # of the step to be taken next

    def take(self, step: int) -> Groups:
        """This rank's groups of ``step``; begins to sample those of the step after it."""
        path = self._path(step)
        if self._ahead is not None:
            groups = self._ahead.result()
        elif path.exists():
            kept = read_groups(path)
            groups = [kept[request] for request in self._requests(step)]
        else:
            groups = self._sample(self._requests(step))
        more = step + 1 < self._steps
        self._ahead = self._thread.submit(self._sample, self._requests(step + 1)) if more else None
        return groups

    def settle(self) -> None:
        """Wait until nothing is being sampled; raises what sampling raised."""
        if self._ahead is not None:
            self._ahead.result()

    def keep(self, step: int, count: int) -> None:
        """Write every rank's groups of ``step``, the next to be taken. Leaves ``count`` such files. Collective."""
        if self._ahead is None:
            return
        shares = parallel.gather(list(zip(self._requests(step), self._ahead.result(), strict=True)))
        if parallel.rank() == 0:
            requests, groups = zip(*(pair for share in shares for pair in share), strict=True)
            write_groups(self._path(step), requests, groups)
            for old in sorted(self._directory.glob("step_*.parquet"))[:-count]:
                old.unlink()

    def close(self) -> None:
        """Returns when nothing is being sampled any more."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _path(self, step: int) -> Path:
        return self._directory / f"step_{step:06d}.parquet"


def _gpu_of(device: torch.device) -> None:
    if device.type == "cuda":  # each thread has a current one of its own
        torch.cuda.set_device(device)
