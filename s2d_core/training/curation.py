"""Which of the teacher's rollouts a stage learns from, and how much of each: by what the student can do already, by
the verifier, and by how near a rollout is to the student."""

from collections.abc import Mapping, Sequence

import torch

from s2d_core.data.problems import Problem
from s2d_core.errors import StageError
from s2d_core.losses import chunked_logprobs
from s2d_core.rollouts.types import Engine, Request, Rollout, Sampling
from s2d_core.training import parallel
from s2d_core.training.packing import IDLE, Example, pack, split_by_tokens
from s2d_core.training.policy import Policy
from s2d_core.training.verified import Grader, example

BEFORE = 0  # the step that what is looked at before the first one is charged to


def pass_rates(
    engine: Engine, grader: Grader, problems: Sequence[Problem], requests: Sequence[Request], sampling: Sampling
) -> dict[str, float]:
    """Problem id → share of right answers among ``sampling.n`` samples of ``engine``. Collective; charges labels."""
    grader.charge(problems, BEFORE)
    mine = slice(parallel.rank(), None, parallel.world_size())
    verdicts = grader.grade(problems[mine], engine.generate(list(requests[mine]), sampling))
    rates = {p.id: sum(v.reward for v in row) / len(row) for p, row in zip(problems[mine], verdicts, strict=True)}
    return {problem: rate for share in parallel.gather(rates) for problem, rate in share.items()}


def pass_rate_weights(rates: Mapping[str, float]) -> dict[str, float]:
    """p(1 − p), scaled to a mean of 1: most for what the student sometimes gets right (PACED).

    Raises StageError when the student gets everything or nothing right.
    """
    weights = {problem: rate * (1.0 - rate) for problem, rate in rates.items()}
    mean = sum(weights.values()) / len(weights)
    if mean == 0.0:
        raise StageError(
            "weighting = pass_rate: the student gets all or nothing of every group right, so no prompt counts"
        )
    return {problem: weight / mean for problem, weight in weights.items()}


def hard_problems(problems: Sequence[Problem], rates: Mapping[str, float], most: float) -> list[Problem]:
    """Those that the student gets right at most so often. Raises StageError when there is none."""
    hard = [problem for problem in problems if rates[problem.id] <= most]
    if not hard:
        raise StageError(f"trek.max_pass_rate = {most:g}: the student passes every prompt more often; raise it")
    return hard


def right_ones(grader: Grader, problems: Sequence[Problem], groups: list[list[Rollout]]) -> list[list[Rollout]]:
    """The rollouts that the verifier rewards; the caller has charged the ledger."""
    verdicts = grader.grade(problems, groups)
    return [
        [rollout for rollout, verdict in zip(group, row, strict=True) if verdict.reward > 0]
        for group, row in zip(groups, verdicts, strict=True)
    ]


@torch.no_grad()
def nearest(policy: Policy, groups: list[list[Rollout]], count: int, token_budget: int) -> list[list[Rollout]]:
    """Of each group, the ``count`` rollouts to which ``policy`` gives the highest mean log-probability a token.

    Collective: ranks read equally often, as a sharded policy needs.
    """
    rollouts = [rollout for group in groups for rollout in group]
    examples = [example(rollout) for rollout in rollouts]
    score: dict[int, float] = {}
    split = split_by_tokens([len(each) for each in examples], token_budget)
    idle = max(parallel.gather(len(split))) - len(split)
    for indices in split:
        means = _mean_logprobs(policy, [examples[index] for index in indices])
        score |= {id(rollouts[index]): mean for index, mean in zip(indices, means, strict=True)}
    for _ in range(idle):
        _mean_logprobs(policy, [IDLE])
    return [sorted(group, key=lambda rollout: -score[id(rollout)])[:count] for group in groups]


@torch.no_grad()
def _mean_logprobs(policy: Policy, examples: Sequence[Example]) -> list[float]:
    lengths = [len(each.completion_ids) for each in examples]
    micro = pack(examples, [torch.ones(length) for length in lengths]).to(parallel.device())
    logprobs, _ = policy(micro, lambda hidden, head: chunked_logprobs(hidden, head, micro.targets))
    return [float(each.mean()) for each in logprobs.split(lengths)]
