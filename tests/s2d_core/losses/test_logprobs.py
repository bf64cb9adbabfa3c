"""Chunked log-probabilities, entropies and next-token loss."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch.autograd import gradcheck
from torch.distributions import Categorical

from s2d_core.losses import chunked_logprobs, chunked_nll

FEW = settings(max_examples=25, deadline=None)  # a first call may be slow on a busy machine


def inputs(seed: int = 0, tokens: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """hidden [tokens, 3], weight [11, 3], targets [tokens]."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    return hidden, weight, torch.randint(11, (tokens,), generator=generator)


def test_log_probabilities_and_entropy_by_hand():
    # One hidden unit of 1 makes the weight the logits: probabilities ¼, ¾
    hidden, weight = torch.ones(2, 1), torch.tensor([[0.0], [math.log(3)]])
    logprobs, entropy = chunked_logprobs(hidden, weight, torch.tensor([0, 1]))
    assert logprobs.tolist() == pytest.approx([math.log(0.25), math.log(0.75)])
    assert entropy.tolist() == pytest.approx([0.25 * math.log(4) + 0.75 * math.log(4 / 3)] * 2)


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_values_and_gradients_equal_those_of_whole_logits(chunk, temperature):
    hidden, weight, targets = inputs()
    logprobs, entropy = chunked_logprobs(hidden, weight, targets, temperature=temperature, chunk=chunk)
    expected = Categorical(logits=hidden @ weight.T / temperature)
    torch.testing.assert_close(logprobs, expected.log_prob(targets))
    torch.testing.assert_close(entropy, expected.entropy().detach())
    slope = torch.linspace(-1, 2, 7, dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad(logprobs @ slope, (hidden, weight)),
        torch.autograd.grad(expected.log_prob(targets) @ slope, (hidden, weight)),
    )


def test_the_backward_pass_is_the_derivative_of_the_forward_pass():
    hidden, weight, targets = inputs(tokens=4)
    assert gradcheck(lambda h, w: chunked_logprobs(h, w, targets, temperature=0.7, chunk=3)[0], (hidden, weight))
    weights = torch.rand(4, dtype=torch.float64)
    assert gradcheck(lambda h, w: chunked_nll(h, w, targets, weights, chunk=3).loss, (hidden, weight))


def test_greedy_samples_are_scored_at_temperature_one():
    hidden, weight, targets = inputs()
    greedy, plain = (chunked_logprobs(hidden, weight, targets, temperature=t)[0] for t in (0.0, 1.0))
    assert torch.equal(greedy, plain)


def test_entropies_carry_no_gradient():
    hidden, weight, targets = inputs()
    logprobs, entropy = chunked_logprobs(hidden, weight, targets)
    assert logprobs.requires_grad
    assert not entropy.requires_grad


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_inputs_give_float32_log_probabilities(autocast):
    hidden, weight, targets = inputs()
    hidden, weight = hidden.detach().bfloat16(), weight.detach().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        logprobs, entropy = chunked_logprobs(hidden, weight, targets)
    assert logprobs.dtype == entropy.dtype == torch.float32
    exact = Categorical(logits=hidden.double() @ weight.double().T).log_prob(targets)
    torch.testing.assert_close(logprobs.double(), exact, rtol=1e-5, atol=1e-5)


def test_no_tokens_give_no_log_probabilities():
    hidden, weight, targets = inputs(tokens=0)
    logprobs, entropy = chunked_logprobs(hidden, weight, targets)
    assert logprobs.shape == entropy.shape == (0,)
    logprobs.sum().backward()
    assert weight.grad.abs().sum() == 0


@FEW
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 8))
def test_next_token_loss_is_the_weighted_cross_entropy_however_it_is_split(seed, cut, chunk):
    hidden, weight, targets = inputs(seed)
    weights = torch.linspace(0.1, 1, 7, dtype=torch.float64)
    expected = weights @ torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="none")
    parts = [
        chunked_nll(hidden[rows], weight, targets[rows], weights[rows], chunk=chunk).loss
        for rows in (slice(cut), slice(cut, None))
    ]
    torch.testing.assert_close(parts[0] + parts[1], expected)
    torch.testing.assert_close(
        torch.autograd.grad(parts[0] + parts[1], (hidden, weight)), torch.autograd.grad(expected, (hidden, weight))
    )


def test_shapes_that_do_not_fit_are_refused():
    hidden, weight, targets = inputs()
    with pytest.raises(TypeCheckError):
        chunked_logprobs(hidden, weight, targets[:-1])
