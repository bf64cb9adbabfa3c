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

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from s2d_core.config.stages import RolloutStage, SamplingConfig
from s2d_core.data.problems import Problem
from s2d_core.errors import StageError
from s2d_core.rollouts.files import shard_size
from s2d_core.rollouts.types import Engine, NamedWeights, Request, Rollout, Sampling
from s2d_core.spec import StageSpec, fingerprint
from s2d_core.store import AHEAD, ROLLOUTS
from s2d_core.training import parallel
from s2d_core.training.context import Context, Stopwatch, stable_seed
from s2d_core.training.overlap import Overlap
from s2d_core.training.packing import Example
from s2d_core.training.prompts import PromptStream
from s2d_core.training.shared_engine import generate_all
from s2d_core.training.teacher_cache import TeacherTopK
from s2d_core.training.verified import ScoredGroup, VerifierSignal, add, example, refill


@dataclass
class Batch:
    """This rank's share of a step. ``sums`` add up over ranks; see ``loop.step_metrics`` for what is made of them."""

    examples: list[Example]
    sums: dict[str, float] = field(default_factory=dict)


class Source(ABC):
    """Sources that sample from the policy override what tells of it; to the others it is nothing."""

    @abstractmethod
    def batch(self, step: int, clock: Stopwatch) -> Batch:
        """This rank's share of ``step``."""

    def settle(self) -> None:  # noqa: B027
        """Wait until new weights can be taken."""

    def load_weights(self, weights: NamedWeights) -> None:  # noqa: B027
        """The policy changed."""

    def keep(self, step: int) -> None:  # noqa: B027
        """A checkpoint is about to be written that ``step`` goes on from. Collective."""


class Corpus(Source):
    """Given sequences, in seeded order."""

    def __init__(self, sequences: Sequence[tuple[Any, Any]], per_step: int) -> None:
        self.sequences, self.per_step = sequences, per_step

    def batch(self, step: int, clock: Stopwatch) -> Batch:
        first = step * self.per_step
        mine = range(first + parallel.rank(), first + self.per_step, parallel.world_size())
        picked = (self.sequences[index % len(self.sequences)] for index in mine)
        return Batch([Example(prompt, completion) for prompt, completion in picked])


class PolicyRollouts(Source):
    """The policy samples; a verifier scores when ``verifier`` is given (sparse), nobody does otherwise (dense)."""

    def __init__(
        self,
        context: Context,
        stage: RolloutStage,
        engine: Engine,
        prompts: PromptStream,
        encoded: dict[str, tuple[int, ...]],
        scorer: VerifierSignal | None = None,
    ) -> None:
        self.context, self.stage, self.engine = context, stage, engine
        self.prompts, self.encoded, self.scorer = prompts, encoded, scorer
        self.sampling = sampling(stage.sampling, stage.group_size)
        self.overlap: Overlap | None = None
        if context.spec.settings.get("staleness"):
            overlap = Overlap(self._sample, self._requests, stage.steps, context.directory / AHEAD)
            self.overlap = context.opened.enter_context(closing(overlap))

    def batch(self, step: int, clock: Stopwatch) -> Batch:
        batch = self._batch(step, clock)
        if not self.overlap:
            self.engine.sleep()
        return batch

    def _batch(self, step: int, clock: Stopwatch) -> Batch:
        problems = self.prompts.batch(step)
        if self.scorer:
            self.scorer.grader.charge(problems, step)
        with clock("sample"):
            groups = self.overlap.take(step) if self.overlap else self._sample(self._requests(step))
        sums = rollout_sums(groups)
        if self.overlap:
            sums["staleness"] = sums["rollouts"] * min(step, 1)
        if self.scorer is None:
            return Batch([example(rollout) for group in groups for rollout in group], sums)
        with clock("score"):
            scored = self.scorer.score(share(problems), groups, sums)
        if rounds := self.scorer.stage.refill_rounds:
            further = self.prompts.others(step)
            scored = refill(scored, lambda more: self._look(more, step, clock, sums), further, len(problems), rounds)
        return Batch(self.scorer.examples(scored), sums)

    def settle(self) -> None:
        if self.overlap:
            self.overlap.settle()

    def load_weights(self, weights: NamedWeights) -> None:
        self.engine.load_weights(weights)

    def keep(self, step: int) -> None:
        if self.overlap:
            # One more than there are checkpoints: this one may yet be torn by a crash.
            self.overlap.keep(step, self.context.training.checkpoints_kept + 1)

    def _look(
        self, problems: Sequence[Problem], step: int, clock: Stopwatch, sums: dict[str, float]
    ) -> list[ScoredGroup]:
        """Groups of this rank's share of further ``problems``, charged to the same step."""
        assert self.scorer is not None
        self.scorer.grader.charge(problems, step)
        mine = share(problems)
        with clock("sample"):  # by a rank without any, too: the engine may be shared
            groups = self._sample(requests(self.context, mine, self.encoded, step))
        if not mine:
            return []
        add(sums, rollout_sums(groups) | {"refilled_groups": float(len(groups))})
        with clock("score"):
            return self.scorer.score(mine, groups, sums)

    def _requests(self, step: int) -> list[Request]:
        return requests(self.context, share(self.prompts.batch(step)), self.encoded, step)

    def _sample(self, wanted: Sequence[Request]) -> list[list[Rollout]]:
        return self.engine.generate(list(wanted), self.sampling)


class TeacherRollouts(Source):
    """Rollouts of the frozen teacher for each prompt, sampled once before the first step and then reused.

    They are on disk shard by shard: a stage that is killed goes on with what is missing. Those of ``share_teacher`` lie
    beside the stages and depend on nothing of the student, so other students, learning rates and losses read them too.
    What the teacher thinks of each token is computed anew in every step, exactly; with ``top_k`` its likeliest tokens
    lie beside the rollouts.

    engine: the teacher's, for what is missing; closed before the first update. curate: what becomes of a rank's groups
    when they are sampled; it may drop rollouts. weights: by problem id.
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
        top_k: TeacherTopK | None = None,
    ) -> None:
        self.context, self.stage, self.engine = context, stage, engine
        self.prompts, self.encoded = prompts, encoded
        self.curate, self.weights, self.top_k = curate, weights or {}, top_k
        self.shared = _whose(context.spec, stage) if context.spec.settings.get("share_teacher") else None
        self.stored: dict[str, list[Rollout]] = {}
        self.sampled = 0.0

    def batch(self, step: int, clock: Stopwatch) -> Batch:
        if not self.stored:
            with clock("sample"):
                self.stored = self._sample()
        mine = share(self.prompts.batch(step))
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
        mine = share(self.prompts.used(self.stage.steps))
        n, wanted, directory = self.stage.group_size, self._requests(mine), self._directory()
        shard = shard_size(self.context.rollouts, n)
        with closing(self.engine):
            groups = generate_all(self.engine, wanted, sampling(self.stage.sampling, n), directory, shard)
        self.sampled = rollout_sums(groups)["tokens_sampled"]
        if self.top_k:
            groups = self.top_k.stored(directory, wanted)
        if self.curate:
            groups = self.curate(mine, groups)
        shares = parallel.gather({p.id: group for p, group in zip(mine, groups, strict=True)})
        stored = {key: group for share in shares for key, group in share.items()}
        if not any(stored.values()):
            raise StageError(f"{self.context.spec.id}: none of the teacher's rollouts is right; nothing to learn from")
        return stored

    def _requests(self, problems: Sequence[Problem]) -> list[Request]:
        if self.shared is None:
            return requests(self.context, problems, self.encoded, step=0)
        return [Request(p.id, self.encoded[p.id], stable_seed(self.shared, p.id)) for p in problems]

    def _directory(self) -> Path:
        if self.shared is None:
            return self.context.directory / ROLLOUTS
        return self.context.store.root / ROLLOUTS / self.shared


class Curate(Protocol):
    def __call__(self, problems: Sequence[Problem], groups: list[list[Rollout]]) -> list[list[Rollout]]: ...


def _whose(spec: StageSpec, stage: RolloutStage) -> str:
    """Name of the rollouts of one teacher under one sampling and seed: all that decides them beside the prompts."""
    return fingerprint(
        {"teacher": spec.inputs["teacher"], "seed": spec.seed, "numerics": spec.numerics}
        | {name: spec.settings[name] for name in ("engine", "dtype")}
        | {"sampling": stage.sampling.model_dump(mode="json"), "n": stage.group_size}
    )


def sampling(config: SamplingConfig, n: int) -> Sampling:
    return Sampling(config.max_tokens, config.temperature, config.top_p, config.top_k, n, config.group_tokens)


def requests(
    context: Context, problems: Sequence[Problem], encoded: dict[str, tuple[int, ...]], step: int
) -> list[Request]:
    return [Request(p.id, encoded[p.id], context.seed("sample", step, p.id)) for p in problems]


def share(problems: Sequence[Problem]) -> list[Problem]:
    """This rank's."""
    return list(problems[parallel.rank() :: parallel.world_size()])


def rollout_sums(groups: list[list[Rollout]]) -> dict[str, float]:
    rollouts = [rollout for group in groups for rollout in group]
    lengths = [len(rollout.completion_ids) for rollout in rollouts]
    return {
        "rollouts": len(rollouts),
        "tokens_sampled": float(sum(lengths)),
        "completion_tokens": float(sum(lengths)),
        "truncated": sum(rollout.finish_reason == "length" for rollout in rollouts),
    }
