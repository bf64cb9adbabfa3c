"""What the verifier makes of groups of rollouts: rewards, advantages, and other prompts where all rewards are equal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Protocol

import torch

from s2d_core.config.stages import SparseStage
from s2d_core.data.ledger import LabelLedger
from s2d_core.data.problems import Problem
from s2d_core.losses import group_advantages
from s2d_core.rewards.verifier import Verdict, Verifier
from s2d_core.rollouts.types import Rollout
from s2d_core.training import parallel
from s2d_core.training.context import Context
from s2d_core.training.packing import Example


class Decode(Protocol):
    def __call__(self, ids: list[int]) -> str: ...


class Grader:
    """Rewards of rollouts. Every look at an answer is charged to the ledger first."""

    def __init__(self, context: Context, decode: Decode, ledger: LabelLedger) -> None:
        self.decode, self.ledger, self.stage_id = decode, ledger, context.spec.id
        self.verifier = Verifier(context.verifier.workers, context.verifier.timeout_s, context.verifier.memory_mb)

    def charge(self, problems: Sequence[Problem], step: int) -> None:
        if parallel.rank() == 0:
            self.ledger.charge(self.stage_id, [problem.id for problem in problems], step)

    def grade(self, problems: Sequence[Problem], groups: list[list[Rollout]]) -> list[list[Verdict]]:
        """A verdict for each rollout of each problem's group."""
        items = [
            (self.decode(rollout.completion_ids), problem.answer or "")
            for problem, group in zip(problems, groups, strict=True)
            for rollout in group
        ]
        verdicts = iter(self.verifier.score(items))
        return [[next(verdicts) for _ in group] for group in groups]

    def close(self) -> None:
        self.verifier.close()


@dataclass(frozen=True)
class ScoredGroup:
    """Rollouts of one prompt with their advantages; ``varied``: their rewards are not all equal."""

    rollouts: list[Rollout]
    advantages: list[float]
    varied: bool


class VerifierSignal:
    """Sparse reward: one number a sequence, group-normalised into advantages."""

    def __init__(self, stage: SparseStage, grader: Grader) -> None:
        self.stage, self.grader = stage.policy_gradient, grader

    def score(
        self, problems: Sequence[Problem], groups: list[list[Rollout]], sums: dict[str, float]
    ) -> list[ScoredGroup]:
        """Graded groups, in order; adds rewards, statuses and counts of groups to ``sums``."""
        verdicts = self.grader.grade(problems, groups)
        rewards = torch.tensor([[verdict.reward for verdict in row] for row in verdicts]).view(len(groups), -1)
        advantages = group_advantages(rewards, scale_by_std=self.stage.scale_by_std)
        varied = (rewards != rewards[:, :1]).any(dim=1)  # exact: rewards are 0 or 1
        counts = {"reward": float(rewards.sum())}
        for status in ("malformed", "timeout"):
            counts[status] = sum(verdict.status == status for row in verdicts for verdict in row)
        add(sums, counts | {"groups": len(groups), "zero_variance_groups": float((~varied).sum())})
        rows = zip(groups, advantages.tolist(), varied.tolist(), strict=True)
        return [ScoredGroup(*row) for row in rows]

    def examples(self, scored: Sequence[ScoredGroup]) -> list[Example]:
        """What is trained on: without the groups that teach nothing, if the stage says so."""
        return [
            example(rollout, advantage)
            for group in scored
            if group.varied or not self.stage.drop_zero_variance
            for rollout, advantage in zip(group.rollouts, group.advantages, strict=True)
        ]


def refill(
    scored: list[ScoredGroup],
    look: Callable[[Sequence[Problem]], list[ScoredGroup]],
    further: Sequence[Problem],
    wanted: int,
    rounds: int,
) -> list[ScoredGroup]:
    """Groups without variance replaced by those of ``further`` prompts, in order: DAPO's dynamic sampling
    (arXiv 2503.14476, Section 3.2). Collective.

    Each round looks at as many prompts as varied groups are missing from ``wanted``; after at most ``rounds`` of them,
    or out of prompts, the batch stays smaller. Which prompts those are depends on rewards alone, so the result is the
    same on any number of ranks, and after a resume. Every rank is given as many groups as any other, or one less.

    scored, and what ``look`` makes of problems (all ranks are asked for the same ones): this rank's share, each first
    charged to the label ledger.
    """
    kept = _varied(scored)
    for _ in range(rounds):
        asked = further[: wanted - len(kept)]
        if not asked:
            break
        further = further[len(asked) :]
        kept += _varied(look(asked))
    return kept[parallel.rank() :: parallel.world_size()]


def example(rollout: Rollout, advantage: float = 0.0, weight: float = 1.0) -> Example:
    return Example(
        rollout.prompt_ids, rollout.completion_ids, rollout.logprobs, advantage, weight, teacher=rollout.teacher
    )


def add(sums: dict[str, float], more: dict[str, float]) -> None:
    for name, value in more.items():
        sums[name] = sums.get(name, 0.0) + value


def _varied(scored: list[ScoredGroup]) -> list[ScoredGroup]:
    """Those of all ranks, in the order of their problems, which ranks take in turns."""
    turns = zip_longest(*parallel.gather(scored))
    return [group for turn in turns for group in turn if group is not None and group.varied]
