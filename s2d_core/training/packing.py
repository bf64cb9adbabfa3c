"""Sequences → packed micro-batches under a token budget. Knows tensors and token counts, no model and no loss.

Nothing is padded: a micro-batch is one long row of tokens, and only the positions whose next token is part of a
completion reach the loss, so there is no mask either.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from s2d_core.rollouts.top_k import StoredTopK


@dataclass(frozen=True, slots=True)
class Example:
    """One training sequence: read ``prompt_ids``, learn on ``completion_ids``.

    ``logprobs`` are the sampler's (empty for given text), ``advantage`` the sequence's (0 for dense losses), ``weight``
    what its tokens count for in the loss, ``teacher`` where the teacher's likeliest tokens at each token of the
    completion are stored.
    """

    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]
    logprobs: Sequence[float] = ()
    advantage: float = 0.0
    weight: float = 1.0
    teacher: StoredTopK | None = None

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


IDLE = Example([0], [0])  # what a rank reads while others have more: a sharded model is collective


@dataclass
class MicroBatch:
    """Packed sequences.

    input_ids, position_ids: [tokens]; lengths: [sequences], tokens of each sequence; predict_at: [predictions],
    index of the token whose hidden state predicts a completion token; targets, weights, advantages,
    sampler_logprobs: [predictions]; teacher_ids, teacher_logprobs: [predictions, k], with k = 0 where none are stored.
    """

    input_ids: Tensor
    position_ids: Tensor
    lengths: Tensor
    predict_at: Tensor
    targets: Tensor
    weights: Tensor
    advantages: Tensor
    sampler_logprobs: Tensor
    teacher_ids: Tensor
    teacher_logprobs: Tensor

    def to(self, device: torch.device | str) -> "MicroBatch":
        return MicroBatch(**{each.name: getattr(self, each.name).to(device) for each in fields(self)})


def split_by_tokens(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Indices of the sequences in each micro-batch: longest first, first micro-batch with room, each ≤ budget.

    A sequence longer than the budget gets a micro-batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    groups: list[list[int]] = []
    room: list[int] = []
    for index in order:
        fits = next((g for g, free in enumerate(room) if free >= lengths[index]), None)
        if fits is None:
            groups.append([])
            room.append(token_budget)
            fits = len(groups) - 1
        groups[fits].append(index)
        room[fits] -= lengths[index]
    return groups


def deal(lengths: Sequence[int], token_budget: int, ranks: int) -> list[list[list[int]]]:
    """For each rank its micro-batches as indices of sequences: equally many, some perhaps empty.

    Ranks wait for each other at every micro-batch, so those of one round should be equally long: as few rounds as the
    budget allows, filled longest sequence first, each into the emptiest micro-batch of all (LPT, at most 4/3 of the
    best; Graham 1969). A single rank's are those of ``split_by_tokens``.
    """
    if ranks == 1:
        return [split_by_tokens(lengths, token_budget)]
    limit = max(token_budget, *lengths) if lengths else token_budget
    rounds = max(1, -(-sum(lengths) // (token_budget * ranks)))
    while (levelled := _level(lengths, rounds * ranks))[0][0] > limit:
        rounds += 1
    return [[group for _, group in levelled[rank::ranks]] for rank in range(ranks)]


def _level(lengths: Sequence[int], count: int) -> list[tuple[int, list[int]]]:
    """``count`` (tokens, indices), longest first."""
    heap: list[tuple[int, int, list[int]]] = [(0, group, []) for group in range(count)]
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        tokens, group, members = heap[0]
        heapq.heapreplace(heap, (tokens + lengths[index], group, [*members, index]))
    return sorted(((tokens, members) for tokens, _, members in heap), key=lambda each: -each[0])


def pack(examples: Sequence[Example], weights: Sequence[Tensor]) -> MicroBatch:
    """Pack ``examples`` into one micro-batch; ``weights[i]``: [completion tokens of example i]."""
    lengths = torch.tensor([len(example) for example in examples])
    prompts = torch.tensor([len(example.prompt_ids) for example in examples])
    completions = lengths - prompts
    starts = torch.cumsum(lengths, 0) - lengths
    ids = torch.tensor([token for each in examples for token in (*each.prompt_ids, *each.completion_ids)])
    positions = torch.arange(len(ids)) - torch.repeat_interleave(starts, lengths)
    # The token before a completion token predicts it.
    is_completion = positions >= torch.repeat_interleave(prompts, lengths)
    target_at = torch.nonzero(is_completion).squeeze(1)
    logprobs = [value for each in examples for value in each.logprobs] or [0.0] * len(target_at)
    teacher_ids, teacher_logprobs = _teacher_top_k(examples, len(target_at))
    return MicroBatch(
        input_ids=ids,
        position_ids=positions,
        lengths=lengths,
        predict_at=target_at - 1,
        targets=ids[target_at],
        weights=torch.cat(list(weights)).float(),
        advantages=torch.repeat_interleave(torch.tensor([e.advantage for e in examples]), completions),
        sampler_logprobs=torch.tensor(logprobs),
        teacher_ids=teacher_ids,
        teacher_logprobs=teacher_logprobs,
    )


def _teacher_top_k(examples: Sequence[Example], predictions: int) -> tuple[Tensor, Tensor]:
    """(token ids, log-probabilities), [predictions, k]: read from disk for this micro-batch alone."""
    read = [each.teacher.read() for each in examples if each.teacher]
    if not read:
        return torch.empty(predictions, 0, dtype=torch.int32), torch.empty(predictions, 0)
    ids, logprobs = zip(*read, strict=True)
    return torch.cat(ids), torch.cat(logprobs)
