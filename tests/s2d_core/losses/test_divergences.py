"""Divergences against closed forms in float64, autograd, torch.distributions, and a fully enumerated toy."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence

from s2d_core.losses import (
    chunked_divergence,
    chunked_logprobs,
    chunked_nll,
    divergence,
    sampled_token_divergence,
    top_k_divergence,
)

KINDS = ("forward_kl", "reverse_kl", "jsd")


def models(tokens=7, vocab=11, student_width=5, teacher_width=3, sharpness=1.0, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return (sharpness * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)

    return (
        randn(tokens, student_width),
        randn(vocab, student_width),
        randn(tokens, teacher_width),
        randn(vocab, teacher_width),
    )


def weights_of(tokens):
    return torch.rand(tokens, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def reference(hidden, weight, teacher_hidden, teacher_weight, weights, kind, beta=0.5, temperature=1.0):
    """The same in plain autograd and torch.distributions."""
    vocab = min(len(weight), len(teacher_weight))
    student = Categorical(logits=(hidden @ weight.T)[:, :vocab])
    teacher = Categorical(logits=(teacher_hidden @ teacher_weight[:vocab].T) / temperature)
    if kind == "forward_kl":
        values = kl_divergence(teacher, student)
    elif kind == "reverse_kl":
        values = kl_divergence(student, teacher)
    else:
        mixture = Categorical(probs=beta * teacher.probs + (1 - beta) * student.probs)
        values = beta * kl_divergence(teacher, mixture) + (1 - beta) * kl_divergence(student, mixture)
    return (weights * values).sum()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_values_and_gradients_equal_plain_autograd_whatever_the_chunk(kind, chunk):
    tensors, weights = models(), weights_of(7)
    ours = [tensors[0].clone().requires_grad_(), tensors[1].clone().requires_grad_()]
    plain = [tensors[0].clone().requires_grad_(), tensors[1].clone().requires_grad_()]
    options = {"beta": 0.3, "teacher_temperature": 1.7}
    output = chunked_divergence(*ours, *tensors[2:], weights, kind=kind, chunk=chunk, **options)
    expected = reference(*plain, *tensors[2:], weights, kind, 0.3, 1.7)
    torch.testing.assert_close(output.loss, expected)
    (3 * output.loss).backward()
    (3 * expected).backward()
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    torch.testing.assert_close(output.metrics["kl"], expected.detach())


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_pass_gradcheck(kind):
    hidden, weight, *teacher = models(tokens=3, vocab=5)
    weights = weights_of(3)

    def value(h, w):
        return chunked_divergence(h, w, *teacher, weights, kind=kind, chunk=2).loss

    assert torch.autograd.gradcheck(value, (hidden.requires_grad_(), weight.requires_grad_()))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(KINDS), st.floats(0.05, 0.95))
def test_divergences_are_positive_and_vanish_only_between_equals(seed, kind, beta):
    a, b = torch.log_softmax(torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(seed)).double(), dim=-1)
    assert torch.all(divergence(a, b, kind, beta) > 0)
    torch.testing.assert_close(divergence(a, a, kind, beta), torch.zeros(4).double(), atol=1e-12, rtol=0)


def test_the_jsd_at_one_half_is_symmetric_and_bounded_by_log_two():
    a, b = torch.log_softmax(5 * torch.randn(2, 50, 6, generator=torch.Generator().manual_seed(0)).double(), dim=-1)
    torch.testing.assert_close(divergence(a, b, "jsd", 0.5), divergence(b, a, "jsd", 0.5))
    assert torch.all(divergence(a, b, "jsd", 0.5) <= torch.tensor(2.0).double().log())


def test_near_its_ends_the_jsd_is_beta_times_a_kl():
    student, teacher = torch.log_softmax(torch.randn(2, 20, 6, generator=torch.Generator().manual_seed(0)).double(), -1)
    small = 1e-5
    torch.testing.assert_close(
        divergence(student, teacher, "jsd", small) / small,
        divergence(student, teacher, "forward_kl"),
        rtol=1e-3,
        atol=1e-5,
    )
    torch.testing.assert_close(
        divergence(student, teacher, "jsd", 1 - small) / small,
        divergence(student, teacher, "reverse_kl"),
        rtol=1e-3,
        atol=1e-5,
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.sampled_from(KINDS))
def test_splitting_a_batch_changes_neither_loss_nor_gradient(cut, kind):
    hidden, weight, teacher_hidden, teacher_weight = models()
    weights = weights_of(7)

    def run(parts):
        head = weight.clone().requires_grad_()
        loss = sum(
            chunked_divergence(hidden[p], head, teacher_hidden[p], teacher_weight, weights[p], kind=kind).loss
            for p in parts
        )
        loss.backward()
        return loss.detach(), head.grad

    for mine, theirs in zip(run([slice(None)]), run([slice(cut), slice(cut, None)]), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_vocabularies_of_different_padding_are_cut_to_the_shared_rows():
    hidden, weight, teacher_hidden, teacher_weight = models()
    padded = torch.cat([teacher_weight, torch.randn(4, 3).double()])
    for kind in KINDS:
        small = chunked_divergence(hidden, weight, teacher_hidden, teacher_weight, weights_of(7), kind=kind).loss
        torch.testing.assert_close(
            chunked_divergence(hidden, weight, teacher_hidden, padded, weights_of(7), kind=kind).loss, small
        )


def test_the_teacher_gets_no_gradient():
    tensors = [tensor.requires_grad_() for tensor in models()]
    chunked_divergence(*tensors, weights_of(7), kind="reverse_kl").loss.backward()
    assert tensors[0].grad is not None
    assert tensors[2].grad is None
    assert tensors[3].grad is None


@pytest.mark.parametrize("kind", KINDS)
def test_sharp_bfloat16_inputs_keep_the_gradient_within_half_a_percent(kind):
    rounded = [t.bfloat16() for t in models(tokens=64, vocab=517, student_width=64, teacher_width=64, sharpness=0.7)]
    exact = rounded[0].double().requires_grad_()
    reference(exact, *(t.double() for t in rounded[1:]), weights_of(64), kind).backward()
    ours = rounded[0].clone().float().requires_grad_()
    chunked_divergence(ours.bfloat16(), *rounded[1:], weights_of(64).float(), kind=kind).loss.backward()
    assert (ours.grad.double() - exact.grad).norm() / exact.grad.norm() < 0.005


def test_log_probabilities_and_entropy_are_float32_and_right():
    hidden, weight, *_ = models()
    targets = torch.arange(7)
    logprobs, entropy = chunked_logprobs(hidden.bfloat16(), weight.bfloat16(), targets, temperature=0.7, chunk=2)
    distribution = Categorical(logits=hidden.bfloat16().double() @ weight.bfloat16().double().T / 0.7)
    assert logprobs.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logprobs.double(), distribution.log_prob(targets), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        chunked_logprobs(hidden, weight, targets)[1], Categorical(logits=hidden @ weight.T).entropy()
    )


def test_gradients_of_log_probabilities_equal_plain_autograd():
    hidden, weight, *_ = models()
    targets, coefficients = torch.arange(7), weights_of(7)
    grads = []
    for chunk in (2, None):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        logprobs = (
            chunked_logprobs(h, w, targets, chunk=chunk)[0]
            if chunk
            else torch.log_softmax(h @ w.T, -1)[torch.arange(7), targets]
        )
        (coefficients * logprobs).sum().backward()
        grads.append((h.grad, w.grad))
    torch.testing.assert_close(*grads)


def test_next_token_loss_is_cross_entropy():
    hidden, weight, *_ = models()
    targets, weights = torch.arange(7), weights_of(7)
    expected = (weights * torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="none")).sum()
    torch.testing.assert_close(chunked_nll(hidden, weight, targets, weights, chunk=3).loss, expected)


def test_no_rows_give_no_loss():
    _, weight, _, teacher = models()
    empty = torch.zeros(0, 5).double(), weight, torch.zeros(0, 3).double(), teacher, torch.zeros(0).double()
    assert chunked_divergence(*empty, kind="forward_kl").loss == 0
    assert chunked_logprobs(empty[0], weight, torch.zeros(0, dtype=torch.long))[0].shape == (0,)


@pytest.mark.parametrize("kind", KINDS)
def test_top_k_over_the_whole_vocabulary_is_the_full_divergence(kind):
    tensors = models()
    full = chunked_divergence(*tensors, weights_of(7), kind=kind)
    top = top_k_divergence(*tensors, weights_of(7), kind=kind, k=11)
    torch.testing.assert_close(top.loss, full.loss)
    torch.testing.assert_close(top.metrics["covered"], weights_of(7).sum())


def test_top_k_ignores_everything_outside_the_teacher_s_support():
    hidden, weight, teacher_hidden, teacher_weight = models(tokens=1)
    support = (teacher_hidden @ teacher_weight.T)[0].topk(3).indices
    inside = reference(hidden, weight[support], teacher_hidden, teacher_weight[support], weights_of(1), "reverse_kl")
    found = top_k_divergence(hidden, weight, teacher_hidden, teacher_weight, weights_of(1), kind="reverse_kl", k=3).loss
    torch.testing.assert_close(found, inside)


def test_the_sampled_token_gradient_is_the_full_reverse_kl_gradient_in_expectation():
    hidden, weight, *teacher = models(tokens=1, vocab=6)
    probabilities = torch.softmax(hidden @ weight.T, -1)[0]
    expected_gradient = torch.zeros_like(weight)
    for token in range(6):
        head = weight.clone().requires_grad_()
        sampled_token_divergence(hidden, head, *teacher, torch.tensor([token]), torch.ones(1).double()).loss.backward()
        expected_gradient += probabilities[token] * head.grad
    head = weight.clone().requires_grad_()
    chunked_divergence(hidden, head, *teacher, torch.ones(1).double(), kind="reverse_kl").loss.backward()
    torch.testing.assert_close(expected_gradient, head.grad)


def test_opd_s_gradient_is_the_implicit_reward_policy_gradient_on_an_enumerable_toy():
    """Paper v4, Eq. 3, all 3³ sequences of a table policy enumerated.

    With the state distribution held fixed (the loss does not differentiate through sampling), the expected gradient of
    Σ_t KL(π(·|s_t) ‖ T(·|s_t)) equals −E Σ_t ∇log π(y_t|s_t) · log(T(y_t|s_t)/π(y_t|s_t)): the policy gradient whose
    reward at each token is the implicit reward of that token alone (no reward-to-go).
    """
    vocab, length = 3, 3
    states = [s for n in range(length) for s in itertools.product(range(vocab), repeat=n)]
    index = {state: i for i, state in enumerate(states)}
    generator = torch.Generator().manual_seed(0)
    table, teacher = (torch.randn(len(states), vocab, generator=generator).double() for _ in range(2))
    logits = table.clone().requires_grad_()
    policy, target = torch.log_softmax(logits, -1), torch.log_softmax(teacher, -1)

    surrogate = torch.zeros(()).double()
    reach = torch.zeros(len(states)).double()
    for sequence in itertools.product(range(vocab), repeat=length):
        steps = [(index[sequence[:t]], sequence[t]) for t in range(length)]
        probability = torch.exp(sum(policy[s, y].detach() for s, y in steps))
        for s, y in steps:
            reach[s] += probability
            surrogate = surrogate - probability * policy[s, y] * (target[s, y] - policy[s, y]).detach()
    surrogate.backward()

    hidden = torch.eye(len(states)).double()  # one-hot states: the head's weight is the table
    head = table.T.contiguous().requires_grad_()
    output = chunked_divergence(hidden, head, hidden, teacher.T, reach, kind="reverse_kl", chunk=4)
    output.loss.backward()
    torch.testing.assert_close(head.grad.T, logits.grad)
