"""The clipped policy gradient against numbers by hand, a scalar reference and autograd."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2d_core.losses import policy_gradient

FEW = settings(max_examples=25, deadline=None)  # a first call may be slow on a busy machine

CLIP = {"clip_low": 0.2, "clip_high": 0.28}


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def gradient_of(logprobs, old, advantages, weights, **options) -> list[float]:
    logprobs = logprobs.clone().requires_grad_()
    policy_gradient(logprobs, old, advantages, weights, **options).loss.backward()
    return logprobs.grad.tolist()


def test_four_tokens_by_hand():
    # ratios 1.5 and 0.5, each with advantage 2 and -1:
    #   1.5,  2: clipped at 1.28 -> -2.56      0.5,  2: the pessimistic side is 0.5 · 2 -> -1
    #   1.5, -1: not clipped     ->  1.5       0.5, -1: clipped at 0.8                  ->  0.8
    logprobs, advantages = tensor(1.5, 1.5, 0.5, 0.5).log(), tensor(2, -1, 2, -1)
    old, weights = torch.zeros_like(logprobs), torch.full_like(logprobs, 0.25)
    output = policy_gradient(logprobs, old, advantages, weights, **CLIP)
    assert output.loss.item() == pytest.approx((-2.56 + 1.5 - 1.0 + 0.8) / 4)
    assert output.metrics["clip_fraction"].item() == pytest.approx(0.5)
    # A clipped token has no gradient; another has -weight · ratio · advantage.
    assert gradient_of(logprobs, old, advantages, weights, **CLIP) == pytest.approx([0.0, 0.375, -0.25, 0.0])


def test_clip_higher_moves_only_the_upper_bound():
    logprobs, old, weights = tensor(1.25, 0.75).log(), tensor(0, 0), tensor(1, 1)
    symmetric = gradient_of(logprobs, old, tensor(1, -1), weights, clip_low=0.2, clip_high=0.2)
    higher = gradient_of(logprobs, old, tensor(1, -1), weights, **CLIP)
    assert symmetric == [0.0, 0.0]
    assert higher == pytest.approx([-1.25, 0.0])


def test_on_policy_the_gradient_is_reinforce(generator):
    logprobs = -torch.rand(6, generator=generator, dtype=torch.float64)
    advantages = torch.randn(6, generator=generator, dtype=torch.float64)
    weights = torch.rand(6, generator=generator, dtype=torch.float64)
    assert gradient_of(logprobs, logprobs, advantages, weights, **CLIP) == pytest.approx(
        (-weights * advantages).tolist()
    )


def test_zero_advantages_give_exactly_zero_loss_and_gradient(generator):
    logprobs = -torch.rand(6, generator=generator)
    old, nothing, weights = logprobs - 0.5, torch.zeros(6), torch.full((6,), 1 / 6)
    assert policy_gradient(logprobs, old, nothing, weights, **CLIP).loss.item() == 0.0
    assert gradient_of(logprobs, old, nothing, weights, **CLIP) == [0.0] * 6


def test_truncated_importance_weights_are_capped_and_carry_no_gradient():
    logprobs, weights = tensor(-1, -1), tensor(0.5, 0.5)
    sampler = (tensor(-1, -1) - tensor(0.8, 5.0).log()).requires_grad_()  # trainer/sampler ratios 0.8 and 5
    options = {**CLIP, "sampler_logprobs": sampler, "truncated_importance_cap": 2.0}
    output = policy_gradient(logprobs.requires_grad_(), logprobs, tensor(1, 1), weights, **options)
    assert output.metrics["importance_weight"].item() == pytest.approx((0.8 + 2.0) / 2)
    assert output.metrics["sampler_gap"].item() == pytest.approx((abs(math.log(0.8)) + math.log(5)) / 2)
    output.loss.backward()
    assert logprobs.grad.tolist() == pytest.approx([-0.4, -1.0])
    assert sampler.grad is None


def test_without_a_cap_the_sampler_s_gap_is_only_measured():
    logprobs, weights = tensor(-1, -2), tensor(0.5, 0.5)
    sampler = tensor(-3, -1)
    output = policy_gradient(logprobs, logprobs, tensor(1, -1), weights, **CLIP, sampler_logprobs=sampler)
    assert output.metrics["sampler_gap"].item() == pytest.approx(1.5)
    assert "importance_weight" not in output.metrics
    assert output.loss.item() == policy_gradient(logprobs, logprobs, tensor(1, -1), weights, **CLIP).loss.item()


def test_the_reference_penalty_is_k3_by_hand():
    # ref/π = 2: k3 = 2 − ln 2 − 1
    logprobs, reference = tensor(0.25).log(), tensor(0.5).log()
    nothing, one = tensor(0), tensor(1)
    output = policy_gradient(logprobs, logprobs, nothing, one, **CLIP, ref_logprobs=reference, kl_coefficient=0.1)
    assert output.loss.item() == pytest.approx(0.1 * (1 - math.log(2)))
    assert output.metrics["kl_to_reference"].item() == pytest.approx(1 - math.log(2))


def test_k3_is_in_expectation_the_kl_to_the_reference_with_the_gradient_of_the_kl_from_it(generator):
    logits = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)
    policy = torch.distributions.Categorical(logits=logits)
    reference = torch.distributions.Categorical(logits=torch.randn(5, generator=generator, dtype=torch.float64))
    tokens = torch.arange(5)
    nothing = torch.zeros(5, dtype=torch.float64)
    logprobs = policy.log_prob(tokens)
    output = policy_gradient(
        logprobs,
        logprobs,
        nothing,
        policy.probs.detach(),  # every token once, weighted by its probability: the expectation
        **CLIP,
        ref_logprobs=reference.log_prob(tokens),
        kl_coefficient=1.0,
    )
    assert output.loss.item() == pytest.approx(torch.distributions.kl_divergence(policy, reference).item())
    (got,) = torch.autograd.grad(output.loss, logits, retain_graph=True)
    (expected,) = torch.autograd.grad(torch.distributions.kl_divergence(reference, policy), logits)
    torch.testing.assert_close(got, expected)


def test_only_the_current_log_probabilities_get_a_gradient():
    given = {name: tensor(-1, -2).requires_grad_() for name in ("logprobs", "old", "sampler", "reference")}
    policy_gradient(
        given["logprobs"],
        given["old"],
        tensor(1, -1),
        tensor(0.5, 0.5),
        **CLIP,
        sampler_logprobs=given["sampler"],
        truncated_importance_cap=2.0,
        ref_logprobs=given["reference"],
        kl_coefficient=0.1,
    ).loss.backward()
    assert [name for name, x in given.items() if x.grad is not None] == ["logprobs"]


def scalar_reference(logprob, old, advantage, weight, sampler, reference, low, high, cap, coefficient) -> float:
    """One token's loss with the cases of PPO's clip written out."""
    ratio = math.exp(logprob - old)
    surrogate = advantage * (min(ratio, 1 + high) if advantage >= 0 else max(ratio, 1 - low))
    k3 = math.exp(reference - logprob) - 1 - (reference - logprob)
    return weight * (-min(math.exp(old - sampler), cap) * surrogate + coefficient * k3)


logprob = st.floats(-4, -0.01)
token = st.tuples(logprob, logprob, st.floats(-3, 3), st.floats(0, 1), logprob, logprob)
tokens = st.lists(token, min_size=1, max_size=6)


def loss_of(tokens: list[tuple[float, ...]]) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    """loss, metrics, gradient of the log-probabilities [tokens]."""
    logprobs, old, advantages, weights, sampler, reference = torch.tensor(tokens, dtype=torch.float64).T
    logprobs = logprobs.clone().requires_grad_()
    output = policy_gradient(
        logprobs,
        old,
        advantages,
        weights,
        clip_low=0.2,
        clip_high=0.3,
        sampler_logprobs=sampler,
        truncated_importance_cap=1.5,
        ref_logprobs=reference,
        kl_coefficient=0.05,
    )
    (gradient,) = torch.autograd.grad(output.loss, logprobs)
    return output.loss.detach(), output.metrics, gradient


@FEW
@given(tokens)
def test_every_option_at_once_agrees_with_a_scalar_reference(tokens):
    expected = sum(scalar_reference(*each, low=0.2, high=0.3, cap=1.5, coefficient=0.05) for each in tokens)
    assert loss_of(tokens)[0].item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@FEW
@given(tokens, st.integers(1, 5))
def test_splitting_a_batch_changes_neither_loss_nor_metrics_nor_gradient(tokens, cut):
    loss, metrics, gradient = loss_of(tokens)
    parts = [loss_of(part) for part in (tokens[:cut], tokens[cut:]) if part]
    torch.testing.assert_close(sum(part[0] for part in parts), loss)
    torch.testing.assert_close(torch.cat([part[2] for part in parts]), gradient)
    for name, value in metrics.items():
        torch.testing.assert_close(sum(part[1][name] for part in parts), value)


@FEW
@given(tokens, st.randoms())
def test_the_order_of_tokens_does_not_matter(tokens, random):
    shuffled = random.sample(tokens, len(tokens))
    torch.testing.assert_close(loss_of(shuffled)[0], loss_of(tokens)[0])
