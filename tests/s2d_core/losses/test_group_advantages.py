"""Group-normalised advantages."""

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2d_core.losses import group_advantages

FEW = settings(max_examples=25, deadline=None)  # a first call may be slow on a busy machine

rewards = st.lists(st.lists(st.floats(-2, 2, width=32), min_size=4, max_size=4), min_size=1, max_size=4)


def test_one_right_answer_in_four_by_hand():
    # mean 1/4; sample variance (ddof 1) = (9/16 + 3/16) / 3 = 1/4, so std = 1/2
    advantages = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    assert advantages[0].tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-5)


def test_without_std_scaling_only_the_mean_is_taken_off():
    advantages = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), scale_by_std=False)
    assert advantages[0].tolist() == [0.75, -0.25, -0.25, -0.25]


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 1 / 3])
def test_a_group_without_variance_gets_exactly_zero(reward, scale):
    # The float32 mean of seven times 0.1 is not 0.1: rounding alone must not become a signal.
    assert group_advantages(torch.full((2, 7), reward), scale).tolist() == [[0.0] * 7] * 2


def test_groups_do_not_see_each_other(generator):
    rewards = torch.rand(3, 5, generator=generator)
    alone = torch.cat([group_advantages(row[None]) for row in rewards])
    assert torch.equal(group_advantages(rewards), alone)


@FEW
@given(rewards)
def test_the_standard_deviation_is_the_sample_one(rewards):
    got = group_advantages(torch.tensor(rewards, dtype=torch.float64))
    for row, group in zip(got.tolist(), rewards, strict=True):
        mean, std = statistics.fmean(group), statistics.stdev(group)
        expected = [(reward - mean) / (std + 1e-6) if len(set(group)) > 1 else 0.0 for reward in group]
        assert row == pytest.approx(expected, abs=1e-7)


@FEW
@given(rewards, st.permutations(range(4)))
def test_advantages_follow_their_rewards_under_permutation(rewards, order):
    rewards = torch.tensor(rewards, dtype=torch.float64)
    torch.testing.assert_close(group_advantages(rewards)[:, order], group_advantages(rewards[:, order]))


@FEW
@given(rewards)
def test_advantages_of_a_group_sum_to_zero(rewards):
    total = group_advantages(torch.tensor(rewards, dtype=torch.float64), scale_by_std=False).sum(dim=1)
    assert all(math.isclose(value, 0.0, abs_tol=1e-9) for value in total.tolist())
