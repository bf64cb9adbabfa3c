"""Packing: nothing padded, nothing lost, nothing mixed up."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from s2d_core.training.packing import Example, deal, pack, split_by_tokens


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 120))
def test_every_sequence_lands_in_exactly_one_micro_batch_within_the_budget(lengths, budget):
    groups = split_by_tokens(lengths, budget)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert sum(lengths[index] for index in group) <= budget or len(group) == 1


@given(st.lists(st.integers(1, 30), min_size=1, max_size=60))
def test_first_fit_decreasing_is_never_worse_than_half_full(lengths):
    groups = split_by_tokens(lengths, 30)
    assert len(groups) <= 2 * -(-sum(lengths) // 30)


def test_a_packed_micro_batch_reads_like_its_sequences():
    examples = [Example([1, 2, 3], [4, 5], [-0.1, -0.2], 0.5), Example([6], [7, 8, 9], [-0.3, -0.4, -0.5], -1.0)]
    micro = pack(examples, [torch.full((2,), 0.25), torch.full((3,), 0.125)])
    assert micro.input_ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert micro.position_ids.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert micro.lengths.tolist() == [5, 4]
    assert micro.input_ids[micro.predict_at].tolist() == [3, 4, 6, 7, 8]
    assert micro.targets.tolist() == [4, 5, 7, 8, 9]
    assert micro.advantages.tolist() == [0.5, 0.5, -1.0, -1.0, -1.0]
    assert torch.allclose(micro.sampler_logprobs, torch.tensor([-0.1, -0.2, -0.3, -0.4, -0.5]))
    assert micro.weights.tolist() == [0.25, 0.25, 0.125, 0.125, 0.125]


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 120), st.integers(2, 5))
def test_ranks_are_dealt_equally_many_micro_batches_within_the_budget(lengths, budget, ranks):
    dealt = deal(lengths, budget, ranks)
    assert len({len(share) for share in dealt}) == 1
    groups = [group for share in dealt for group in share]
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert sum(lengths[index] for index in group) <= max([budget, *lengths])


def test_ranks_get_about_equally_many_tokens_in_every_round():
    lengths = [16_000, 300, 200, 9000, 8000, 700, 650, 7000, 6000, 150]
    dealt = deal(lengths, 16_384, 3)
    assert len(dealt[0]) == 1  # 48,000 tokens fit one round of three
    loads = [sum(lengths[index] for index in share[0]) for share in dealt]
    assert max(loads) <= 1.05 * sum(lengths) / 3


def test_one_rank_packs_as_if_there_were_no_others():
    lengths = [5, 9, 3, 7, 1, 1, 8]
    assert deal(lengths, 10, 1) == [split_by_tokens(lengths, 10)]
