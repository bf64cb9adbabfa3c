"""A token budget for each group: the few completions that would run on for long are cut off. Knows counts only.

A group's completions are taken to grow side by side, a token each at a time. When the budget has no room for one more
token of all that still run, they end there. Lengths alone decide where, so neither batches nor engines do.
"""

from collections.abc import Sequence

from s2d_core.rollouts.types import Rollout


def cut_at(lengths: Sequence[int], budget: int) -> int:
    """Most tokens T of a completion such that the group, each completion cut at T, has no more than ``budget``.

    lengths: tokens of each completion, without a cut. At least 1: a completion has a token.
    """
    longest, left = 0, budget
    for index, length in enumerate(sorted(lengths)):
        running = len(lengths) - index  # as long as this one, or longer
        if (length - longest) * running > left:
            return max(1, longest + left // running)
        left -= (length - longest) * running
        longest = length
    return max(1, longest)


def cut(group: Sequence[Rollout], budget: int) -> list[Rollout]:
    """The group's completions as far as the budget goes; those that are cut off end for their length."""
    most = cut_at([len(rollout.completion_ids) for rollout in group], budget)
    return [
        rollout
        if len(rollout.completion_ids) <= most
        else Rollout(
            rollout.problem_id,
            rollout.prompt_ids,
            rollout.completion_ids[:most],
            rollout.logprobs[:most],
            "length",
        )
        for rollout in group
    ]
