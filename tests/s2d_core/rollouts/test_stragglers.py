"""Where a group's token budget cuts, and that every engine cuts there and nowhere else."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import EOS, make_requests, tiny_model

from s2d_core.rollouts.stragglers import cut, cut_at
from s2d_core.rollouts.torch_engine import TorchEngine
from s2d_core.rollouts.types import Sampling

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=9)


@given(LENGTHS, st.integers(1, 200))
def test_the_cut_is_the_last_that_the_budget_has_room_for(lengths, budget):
    most = cut_at(lengths, budget)
    used = [sum(min(length, tokens) for length in lengths) for tokens in range(max(lengths) + 2)]
    assert most == max([1, *(tokens for tokens in range(max(lengths) + 1) if used[tokens] <= budget)])


@pytest.mark.parametrize("budget", [4, 9, 14, 23, 1000])
def test_an_engine_samples_what_it_would_without_a_budget_as_far_as_the_budget_goes(budget):
    requests, sampling = make_requests(15), Sampling(max_tokens=12, n=4)
    engine = TorchEngine(tiny_model(), EOS)
    whole = engine.generate(requests, sampling)
    groups = engine.generate(requests, replace(sampling, group_tokens=budget))
    assert groups == [cut(group, budget) for group in whole]
    for group in groups:
        assert sum(len(rollout.completion_ids) for rollout in group) <= max(budget, sampling.n)
        assert all((rollout.completion_ids[-1] == EOS) == (rollout.finish_reason == "stop") for rollout in group)
    assert (groups == whole) == (budget == 1000)
