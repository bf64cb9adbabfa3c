"""GRPO's loss and advantages against numbers worked out by hand and independent formulas."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s2d_core.losses import group_advantages, policy_gradient, token_weights


def loss(logprobs, old, advantages, weights=None, **options):
    settings = {"clip_low": 0.2, "clip_high": 0.2} | options
    tensors = [torch.tensor(x, dtype=torch.float64) for x in (logprobs, old, advantages)]
    weights = torch.full((len(logprobs),), 1.0 / len(logprobs), dtype=torch.float64) if weights is None else weights
    return policy_gradient(*tensors, weights, **settings)


def test_advantages_are_normalised_by_the_sample_standard_deviation():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    expected = [[0.5 / math.sqrt(1 / 3), -0.5 / math.sqrt(1 / 3)], [0.75 / 0.5, -0.25 / 0.5]]
    found = group_advantages(rewards)
    torch.testing.assert_close(found[0, :2], torch.tensor(expected[0], dtype=torch.float64), rtol=1e-5, atol=0)
    torch.testing.assert_close(found[1, :2], torch.tensor(expected[1], dtype=torch.float64), rtol=1e-5, atol=0)


def test_without_scaling_advantages_are_centred_rewards():
    assert group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), scale_by_std=False).tolist() == [
        [0.75, -0.25, -0.25, -0.25]
    ]


@given(st.floats(0.01, 100), st.integers(2, 16))
def test_a_group_without_variance_gets_exactly_nothing(reward, size):
    # 0.1 and the like: the mean of equal floats need not equal them.
    assert torch.all(group_advantages(torch.full((1, size), reward)) == 0)


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=4, max_size=4), min_size=1, max_size=8))
def test_advantages_of_a_group_sum_to_nothing(rewards):
    found = group_advantages(torch.tensor(rewards))
    torch.testing.assert_close(found.sum(1), torch.zeros(len(rewards)), atol=1e-5, rtol=0)


def test_on_policy_the_gradient_is_that_of_reinforce():
    logprobs = torch.tensor([-1.0, -2.0, -0.5], dtype=torch.float64, requires_grad=True)
    advantages, weights = torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([0.5, 0.25, 0.25]).double()
    output = policy_gradient(logprobs, logprobs.detach(), advantages, weights, clip_low=0.2, clip_high=0.2)
    output.loss.backward()
    torch.testing.assert_close(logprobs.grad, -weights * advantages)
    assert output.metrics["clip_fraction"] == 0


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.5, 1.0, -1.28), (1.5, -1.0, 1.5), (0.5, 1.0, -0.5), (0.5, -1.0, 0.8), (1.1, 2.0, -2.2)],
)
def test_clipping_is_pessimistic_and_asymmetric(ratio, advantage, expected):
    output = loss([math.log(ratio)], [0.0], [advantage], clip_high=0.28)
    assert output.loss.item() == pytest.approx(expected)


def test_clipped_tokens_are_counted_and_get_no_gradient():
    logprobs = torch.tensor([math.log(1.5), math.log(1.1)], dtype=torch.float64, requires_grad=True)
    output = policy_gradient(
        logprobs,
        torch.zeros(2).double(),
        torch.ones(2).double(),
        torch.tensor([0.5, 0.5]).double(),
        clip_low=0.2,
        clip_high=0.2,
    )
    output.loss.backward()
    assert logprobs.grad[0] == 0
    assert logprobs.grad[1] == pytest.approx(-0.55)
    assert output.metrics["clip_fraction"].item() == 0.5


def test_the_sampler_s_mismatch_is_corrected_up_to_the_cap_without_gradient_of_its_own():
    sampler = torch.tensor([-1.0 - math.log(1.5), -1.0 - math.log(8.0)]).double()
    logprobs = torch.full((2,), -1.0, dtype=torch.float64, requires_grad=True)
    output = policy_gradient(
        logprobs,
        logprobs.detach(),
        torch.ones(2).double(),
        torch.tensor([0.5, 0.5]).double(),
        clip_low=0.2,
        clip_high=0.2,
        sampler_logprobs=sampler,
        truncated_importance_cap=2.0,
    )
    output.loss.backward()
    torch.testing.assert_close(logprobs.grad, torch.tensor([-0.75, -1.0]).double())
    assert output.metrics["importance_weight"].item() == pytest.approx(1.75)
    assert output.metrics["sampler_gap"].item() == pytest.approx((math.log(1.5) + math.log(8.0)) / 2)


def test_the_kl_estimator_is_unbiased_and_its_gradient_pulls_to_the_reference():
    torch.manual_seed(0)
    policy, reference = torch.log_softmax(torch.randn(2, 6).double(), dim=-1)
    k3 = torch.exp(reference - policy) - (reference - policy) - 1
    exact = (policy.exp() * (policy - reference)).sum()
    output = policy_gradient(
        policy.clone(),
        policy,
        torch.zeros(6).double(),
        policy.exp(),
        clip_low=0.2,
        clip_high=0.2,
        ref_logprobs=reference,
        kl_coefficient=0.5,
    )
    assert output.loss.item() == pytest.approx(0.5 * (policy.exp() * k3).sum().item())
    assert output.metrics["kl_to_reference"].item() == pytest.approx(exact.item())


LENGTHS = torch.tensor([3, 5, 1, 7])
TOTALS = {"total_tokens": 16, "total_sequences": 4, "max_tokens": 10}


def test_each_normalisation_means_what_it_says():
    x = torch.randn(16, generator=torch.Generator().manual_seed(0))
    rows = x.split(LENGTHS.tolist())
    for name, expected in {
        "token_mean": x.mean(),
        "sequence_mean": torch.stack([row.mean() for row in rows]).mean(),
        "constant": x.sum() / 40,
    }.items():
        torch.testing.assert_close((token_weights(LENGTHS, name, **TOTALS) * x).sum(), expected)


@given(st.permutations(range(4)), st.integers(0, 4), st.sampled_from(["token_mean", "sequence_mean", "constant"]))
def test_splitting_a_batch_changes_no_token_s_weight(order, cut, normalisation):
    whole = token_weights(LENGTHS, normalisation, **TOTALS).split(LENGTHS.tolist())
    for part in (order[:cut], order[cut:]):
        pieces = token_weights(LENGTHS[list(part)], normalisation, **TOTALS).split(LENGTHS[list(part)].tolist())
        assert [p.tolist() for p in pieces] == [whole[i].tolist() for i in part] or not part
