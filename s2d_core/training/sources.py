"""Where a step's training examples come from: the actor samples, the signal scores.

    corpus              given sequences                                  (pretraining)
    policy + verifier   student's or teacher's own rollouts, rewarded    (GRPO; charges the label ledger)
    policy + teacher    the student's own rollouts                       (OPD)
    policy + both       the same, rewarded                               (mixed)
    teacher + teacher   the trained teacher's rollouts, sampled once     (warmup)
    teacher + none      the same                                         (SFT)
    teacher + verifier  the right ones of the untrained teacher's        (SFT of the teacher)

Every rank makes its own share of a step's examples; groups are never split.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from s2d_core.config.stages import RolloutStage, SamplingConfig, SparseStage
from s2d_core.data.ledger import LabelLedger
from s2d_core.data.problems import Problem
from s2d_core.errors import StageError
from s2d_core.losses import group_advantages
from s2d_core.rewards.verifier import Verdict, Verifier
from s2d_core.rollouts.types import Engine, NamedWeights, Request, Rollout, Sampling
from s2d_core.training import parallel
from s2d_core.training.context import Context, Stopwatch
from s2d_core.training.packing import Example
from s2d_core.training.prompts import PromptStream


@dataclass
class Batch:
    """This rank's share of a step. ``sums`` add up over ranks; see ``loop.step_metrics`` for what is made of them."""

    examples: list[Example]
    sums: dict[str, float] = field(default_factory=dict)


class Source(Protocol):
    def batch(self, step: int, clock: Stopwatch) -> Batch: ...

    def load_weights(self, weights: NamedWeights) -> None:
        """The policy changed; sources that do not sample from it ignore this."""
        ...


class Corpus:
    """Given sequences, in seeded order."""

    def __init__(self, sequences: Sequence[tuple[Any, Any]], per_step: int) -> None:
        self.sequences, self.per_step = sequences, per_step

    def batch(self, step: int, clock: Stopwatch) -> Batch:
        first = step * self.per_step
        mine = range(first + parallel.rank(), first + self.per_step, parallel.world_size())
        picked = (self.sequences[index % len(self.sequences)] for index in mine)
        return Batch([Example(prompt, completion) for prompt, completion in picked])

    def load_weights(self, weights: NamedWeights) -> None:
        pass


class PolicyRollouts:
    """The policy samples; a verifier scores when ``verifier`` is given (sparse), nobody does otherwise (dense)."""

    def __init__(
        self,
        context: Context,
        stage: RolloutStage,
        engine: Engine,
        prompts: PromptStream,
        encoded: dict[str, tuple[int, ...]],
        scorer: "VerifierSignal | None" = None,
    ) -> None:
        self.context, self.stage, self.engine = context, stage, engine
        self.prompts, self.encoded, self.scorer = prompts, encoded, scorer
        self.sampling = sampling(stage.sampling, stage.group_size)

    def batch(self, step: int, clock: Stopwatch) -> Batch:
        problems = self.prompts.batch(step)
        if self.scorer:
            self.scorer.grader.charge(problems, step)
        mine = problems[parallel.rank() :: parallel.world_size()]
        with clock("sample"):
            groups = self.engine.generate(requests(self.context, mine, self.encoded, step), self.sampling)
        sums = rollout_sums(groups)
        if self.scorer is None:
            return Batch([example(rollout) for group in groups for rollout in group], sums)
        with clock("score"):
            return self.scorer.score(mine, groups, sums)

    def load_weights(self, weights: NamedWeights) -> None:
        self.engine.load_weights(weights)


class Grader:
    """Rewards of rollouts. Every look at an answer is charged to the ledger first."""

    def __init__(self, context: Context, decode: "Decode", ledger: LabelLedger) -> None:
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


class VerifierSignal:
    """Sparse reward: one number a sequence, group-normalised into advantages."""

    def __init__(self, stage: SparseStage, grader: Grader) -> None:
        self.stage, self.grader = stage.policy_gradient, grader

    def score(self, problems: Sequence[Problem], groups: list[list[Rollout]], sums: dict[str, float]) -> Batch:
        verdicts = self.grader.grade(problems, groups)
        rewards = torch.tensor([[verdict.reward for verdict in row] for row in verdicts]).view(len(groups), -1)
        advantages = group_advantages(rewards, scale_by_std=self.stage.scale_by_std)
        sums["reward"] = float(rewards.sum())
        for status in ("malformed", "timeout"):
            sums[status] = sum(verdict.status == status for row in verdicts for verdict in row)
        varied = (rewards != rewards[:, :1]).any(dim=1)  # exact: rewards are 0 or 1
        sums["groups"] = len(groups)
        sums["zero_variance_groups"] = float((~varied).sum())
        keep = varied | torch.tensor(not self.stage.drop_zero_variance)
        examples = [
            example(rollout, advantage)
            for group, row, kept in zip(groups, advantages.tolist(), keep.tolist(), strict=True)
            if kept
            for rollout, advantage in zip(group, row, strict=True)
        ]
        return Batch(examples, sums)


class TeacherRollouts:
    """K rollouts of the frozen teacher for each prompt, sampled once before the first step and then reused.

    curate: what becomes of a rank's groups before they are stored; it may drop rollouts. weights: by problem id.
    """

    def __init__(
        self,
        context: Context,
        stage: RolloutStage,
        engine: Engine,
        prompts: PromptStream,
        encoded: dict[str, tuple[int, ...]],
        curate: "Curate | None" = None,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.context, self.stage, self.engine = context, stage, engine
        self.prompts, self.encoded = prompts, encoded
        self.curate, self.weights = curate, weights or {}
        self.stored: dict[str, list[Rollout]] = {}
        self.sampled = 0.0

    def batch(self, step: int, clock: Stopwatch) -> Batch:
        if not self.stored:
            with clock("sample"):
                self.stored = self._sample()
        mine = self.prompts.batch(step)[parallel.rank() :: parallel.world_size()]
        groups = [self.stored[problem.id] for problem in mine]
        sums = rollout_sums(groups)
        # All of them are charged to the first step: the others reuse what is stored.
        sums["tokens_sampled"] = self.sampled if step == 0 else 0.0
        examples = [
            example(rollout, weight=self.weights.get(problem.id, 1.0))
            for problem, group in zip(mine, groups, strict=True)
            for rollout in group
        ]
        return Batch(examples, sums)

    def _sample(self) -> dict[str, list[Rollout]]:
        mine = self.prompts.used(self.stage.steps)[parallel.rank() :: parallel.world_size()]
        groups = self.engine.generate(
            requests(self.context, mine, self.encoded, step=0),
            sampling(self.stage.sampling, self.stage.group_size),
        )
        self.sampled = rollout_sums(groups)["tokens_sampled"]
        if self.curate:
            groups = self.curate(mine, groups)
        shares = parallel.gather({p.id: group for p, group in zip(mine, groups, strict=True)})
        stored = {key: group for share in shares for key, group in share.items()}
        if not any(stored.values()):
            raise StageError(f"{self.context.spec.id}: none of the teacher's rollouts is right; nothing to learn from")
        return stored

    def load_weights(self, weights: NamedWeights) -> None:
        pass


class Curate(Protocol):
    def __call__(self, problems: Sequence[Problem], groups: list[list[Rollout]]) -> list[list[Rollout]]: ...


class Decode(Protocol):
    def __call__(self, ids: list[int]) -> str: ...


def sampling(config: SamplingConfig, n: int) -> Sampling:
    return Sampling(config.max_tokens, config.temperature, config.top_p, config.top_k, n)


def requests(
    context: Context, problems: Sequence[Problem], encoded: dict[str, tuple[int, ...]], step: int
) -> list[Request]:
    return [Request(p.id, encoded[p.id], context.seed("sample", step, p.id)) for p in problems]


def example(rollout: Rollout, advantage: float = 0.0, weight: float = 1.0) -> Example:
    return Example(rollout.prompt_ids, rollout.completion_ids, rollout.logprobs, advantage, weight)


def rollout_sums(groups: list[list[Rollout]]) -> dict[str, float]:
    rollouts = [rollout for group in groups for rollout in group]
    lengths = [len(rollout.completion_ids) for rollout in rollouts]
    return {
        "rollouts": len(rollouts),
        "tokens_sampled": float(sum(lengths)),
        "completion_tokens": float(sum(lengths)),
        "truncated": sum(rollout.finish_reason == "length" for rollout in rollouts),
    }
