"""Top-k and sampled-token estimators of the divergences."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.distributions import Categorical, kl_divergence

from s2d_core.losses import (
    chunked_divergence,
    sampled_token_divergence,
    stored_top_k_divergence,
    top_k_divergence,
    top_k_logprobs,
)

FEW = settings(max_examples=25, deadline=None)  # a first call may be slow on a busy machine

KINDS = ["forward_kl", "reverse_kl", "jsd"]
VOCAB = 9


def inputs(seed: int = 0, tokens: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "student_hidden": normal(tokens, 3).requires_grad_(),
        "student_weight": normal(VOCAB, 3).requires_grad_(),
        "teacher_hidden": normal(tokens, 4),
        "teacher_weight": normal(VOCAB, 4),
        "weights": torch.rand(tokens, generator=generator, dtype=torch.float64),
    }


def student_gradients(loss: torch.Tensor, given: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(loss, (given["student_hidden"], given["student_weight"]))


def bare_logits(**rows: list[float]) -> dict[str, torch.Tensor]:
    """One token whose student and teacher logits are given."""
    one = torch.ones(1, 1, dtype=torch.float64)
    return {
        **{f"{name}_hidden": one for name in rows},
        **{f"{name}_weight": torch.tensor(row, dtype=torch.float64)[:, None] for name, row in rows.items()},
        "weights": torch.ones(1, dtype=torch.float64),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_top_k_is_the_divergence_of_both_conditioned_on_the_teacher_s_likeliest_tokens(kind):
    given = inputs()
    student_logits = given["student_hidden"] @ given["student_weight"].T
    teacher_logits = given["teacher_hidden"] @ given["teacher_weight"].T / 1.3
    expected = torch.zeros((), dtype=torch.float64)
    covered = 0.0
    for weight, ours, theirs in zip(given["weights"], student_logits, teacher_logits, strict=True):
        support = theirs.argsort(descending=True)[:4]
        s, t = Categorical(logits=ours[support]), Categorical(logits=theirs[support])
        m = Categorical(probs=0.4 * t.probs + 0.6 * s.probs)
        value = {
            "forward_kl": kl_divergence(t, s),
            "reverse_kl": kl_divergence(s, t),
            "jsd": 0.4 * kl_divergence(t, m) + 0.6 * kl_divergence(s, m),
        }[kind]
        expected = expected + weight * value
        covered += (weight * ours.softmax(-1)[support].sum()).item()
    output = top_k_divergence(**given, kind=kind, k=4, beta=0.4, teacher_temperature=1.3, chunk=2)
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(student_gradients(output.loss, given), student_gradients(expected, given))
    assert output.metrics["covered"].item() == pytest.approx(covered)


@FEW
@given(st.integers(0, 2**31), st.sampled_from(KINDS))
def test_top_k_of_the_whole_vocabulary_is_the_exact_divergence(seed, kind):
    given = inputs(seed)
    exact, top = chunked_divergence(**given, kind=kind), top_k_divergence(**given, kind=kind, k=VOCAB + 3)
    torch.testing.assert_close(top.loss, exact.loss)
    torch.testing.assert_close(student_gradients(top.loss, given), student_gradients(exact.loss, given))


@pytest.mark.parametrize("kind", KINDS)
def test_renormalised_top_k_never_rewards_leaving_the_support(kind):
    """Without renormalising, Σ_support s·(log s − log t) turns negative as the student's mass leaves the support."""
    teacher = [3.0, 2.0, -3.0, -3.0]
    for escape in (0.0, 5.0, 20.0):
        given = bare_logits(student=[3.0, 2.0, escape, escape], teacher=teacher)
        given["student_weight"].requires_grad_()
        output = top_k_divergence(**given, kind=kind, k=2)
        assert output.loss.item() == pytest.approx(0.0, abs=1e-9)
        (gradient,) = torch.autograd.grad(output.loss, given["student_weight"])
        assert gradient.abs().max().item() == pytest.approx(0.0, abs=1e-9)
    assert output.metrics["covered"].item() < 1e-6


@FEW
@given(st.integers(0, 2**31), st.integers(1, VOCAB), st.sampled_from(KINDS))
def test_top_k_is_never_negative_and_unchanged_by_splitting(seed, k, kind):
    given = inputs(seed)
    whole = top_k_divergence(**given, kind=kind, k=k).loss
    split = top_k_divergence(**given, kind=kind, k=k, chunk=2).loss
    assert whole.item() >= -1e-12
    torch.testing.assert_close(split, whole)


@pytest.mark.parametrize("kind", KINDS)
def test_top_k_s_backward_pass_is_the_derivative_of_its_forward_pass(kind):
    given = inputs(tokens=3)

    def loss(hidden, weight):
        return top_k_divergence(
            **{**given, "student_hidden": hidden, "student_weight": weight}, kind=kind, k=4, chunk=2
        ).loss

    assert gradcheck(loss, (given["student_hidden"], given["student_weight"]))


def test_a_teacher_s_top_tokens_are_those_of_its_whole_distribution():
    given = inputs()
    expected = Categorical(logits=given["teacher_hidden"] @ given["teacher_weight"].T).logits
    for k in (4, VOCAB + 3):
        ids, logprobs = top_k_logprobs(given["teacher_hidden"], given["teacher_weight"], k, chunk=2)
        assert torch.equal(ids, expected.argsort(dim=-1, descending=True)[:, :k])
        torch.testing.assert_close(logprobs, expected.gather(1, ids))


@FEW
@given(st.integers(0, 2**31), st.integers(1, VOCAB), st.sampled_from(KINDS), st.floats(0.5, 3.0))
def test_the_stored_top_k_has_the_live_one_s_value_metrics_and_gradient(seed, k, kind, temperature):
    """The student has rows of padding."""
    given = inputs(seed)
    given["teacher_weight"] = given["teacher_weight"][: VOCAB - 1]
    settings = {"kind": kind, "beta": 0.3, "teacher_temperature": temperature}
    live = top_k_divergence(**given, k=k, **settings)
    ids, logprobs = top_k_logprobs(given.pop("teacher_hidden"), given.pop("teacher_weight"), k)
    stored = stored_top_k_divergence(**given, teacher_ids=ids.int(), teacher_logprobs=logprobs, **settings, chunk=2)
    torch.testing.assert_close(stored.loss, live.loss)
    torch.testing.assert_close(stored.metrics["kl"], live.metrics["kl"])
    torch.testing.assert_close(student_gradients(stored.loss, given), student_gradients(live.loss, given))


def test_the_sampled_token_s_loss_and_kl_by_hand():
    # s(y) = ¼, t(y) = ½: Â = ln 2; loss −Â · ln ¼ = 2 (ln 2)², the KL's estimate is −ln 2
    given = bare_logits(student=[0.0, math.log(3)], teacher=[0.0, 0.0])
    output = sampled_token_divergence(**given, targets=torch.tensor([0]))
    assert output.loss.item() == pytest.approx(2 * math.log(2) ** 2)
    assert output.metrics["kl"].item() == pytest.approx(-math.log(2))


def every_token(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Each row once for each token of the vocabulary, weighted by the student's probability of it."""
    probabilities = torch.softmax((given["student_hidden"] @ given["student_weight"].T).detach(), dim=-1)
    rows = torch.arange(len(probabilities)).repeat_interleave(VOCAB)
    return {
        "student_hidden": given["student_hidden"][rows],
        "student_weight": given["student_weight"],
        "teacher_hidden": given["teacher_hidden"][rows],
        "teacher_weight": given["teacher_weight"],
        "targets": torch.arange(VOCAB).repeat(len(probabilities)),
        "weights": (given["weights"][:, None] * probabilities).flatten(),
    }


@FEW
@given(st.integers(0, 2**31), st.integers(1, 50))
def test_in_expectation_the_sampled_token_has_the_exact_kl_and_gradient(seed, chunk):
    given = inputs(seed)
    exact = chunked_divergence(**given, kind="reverse_kl", teacher_temperature=1.4)
    estimate = sampled_token_divergence(**every_token(given), teacher_temperature=1.4, chunk=chunk)
    torch.testing.assert_close(estimate.metrics["kl"], exact.metrics["kl"])
    torch.testing.assert_close(student_gradients(estimate.loss, given), student_gradients(exact.loss, given))


def test_a_single_sampled_token_is_noisier_than_the_full_vocabulary():
    given, draws = inputs(), 4000
    exact, _ = student_gradients(chunked_divergence(**given, kind="reverse_kl").loss, given)
    many = {
        name: x if "_weight" in name else x.detach().repeat(draws, *[1] * (x.dim() - 1)) for name, x in given.items()
    }
    many["student_hidden"].requires_grad_()
    torch.manual_seed(0)
    targets = Categorical(logits=(many["student_hidden"] @ given["student_weight"].T).detach()).sample()
    estimates, _ = student_gradients(sampled_token_divergence(**many, targets=targets).loss, many)
    estimates = estimates.view(draws, *exact.shape)
    spread = estimates.std(dim=0).norm().item()
    assert (estimates.mean(dim=0) - exact).norm().item() < 4 * spread / math.sqrt(draws)
    assert spread > exact.norm().item()
