"""The divergences themselves: closed forms, torch.distributions, limits and conventions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence

from s2d_core.losses import divergence

FEW = settings(max_examples=25, deadline=None)  # a first call may be slow on a busy machine

STUDENT = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
TEACHER = torch.tensor([[0.25, 0.5, 0.25]], dtype=torch.float64).log()
KINDS = ["forward_kl", "reverse_kl", "jsd"]


def logprobs(logits) -> torch.Tensor:
    return torch.log_softmax(torch.tensor(logits, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl"])
def test_kl_by_hand(kind):
    # ¼ ln ½ + ½ ln 2 + 0, the same both ways by symmetry
    assert divergence(STUDENT, TEACHER, kind).item() == pytest.approx(math.log(2) / 4)


def test_jsd_by_hand_mixes_beta_of_the_teacher():
    # β = ⅓: m = ⅓ t + ⅔ s = (5/12, 4/12, 3/12)
    teacher = 0.25 * math.log(0.25 * 12 / 5) + 0.5 * math.log(0.5 * 12 / 4)
    student = 0.5 * math.log(0.5 * 12 / 5) + 0.25 * math.log(0.25 * 12 / 4)
    assert divergence(STUDENT, TEACHER, "jsd", 1 / 3).item() == pytest.approx(teacher / 3 + 2 * student / 3)


def test_the_direction_of_each_kl():
    # The student is sure of a token that the teacher gives 1 %: costly for the reverse KL only.
    student, teacher = logprobs([[20.0, 0.0]]), torch.tensor([[0.01, 0.99]], dtype=torch.float64).log()
    assert divergence(student, teacher, "reverse_kl").item() == pytest.approx(-math.log(0.01), rel=1e-4)
    assert divergence(student, teacher, "forward_kl").item() == pytest.approx(0.99 * 20, rel=0.01)


def test_a_token_of_probability_zero_adds_nothing():
    impossible = torch.tensor([[0.0, 0.5, 0.5]], dtype=torch.float64).log()
    uniform = torch.full((1, 3), 1 / 3, dtype=torch.float64).log().requires_grad_()
    value = divergence(uniform, impossible, "forward_kl")
    assert value.item() == pytest.approx(math.log(1.5))
    value.sum().backward()
    assert uniform.grad[0].tolist() == pytest.approx([0.0, -0.5, -0.5])


def test_the_jensen_shannon_divergence_of_disjoint_distributions_is_ln_2():
    left, right = logprobs([[100.0, 0.0]]), logprobs([[0.0, 100.0]])
    assert divergence(left, right, "jsd", 0.5).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("kind", KINDS)
def test_each_row_is_a_token(kind, generator):
    student, teacher = torch.randn(2, 4, 5, generator=generator).log_softmax(dim=-1)
    rows = torch.cat([divergence(student[i : i + 1], teacher[i : i + 1], kind) for i in range(4)])
    assert torch.equal(divergence(student, teacher, kind), rows)


logits = st.lists(st.floats(-8, 8), min_size=5, max_size=5).map(lambda row: [row])
betas = st.floats(0.01, 0.99)


@FEW
@given(logits, logits, betas)
def test_all_agree_with_torch_distributions(student, teacher, beta):
    s, t = Categorical(logits=torch.tensor(student).double()), Categorical(logits=torch.tensor(teacher).double())
    m = Categorical(probs=beta * t.probs + (1 - beta) * s.probs)
    expected = {
        "forward_kl": kl_divergence(t, s),
        "reverse_kl": kl_divergence(s, t),
        "jsd": beta * kl_divergence(t, m) + (1 - beta) * kl_divergence(s, m),
    }
    for kind, value in expected.items():
        got = divergence(s.logits, t.logits, kind, beta)
        torch.testing.assert_close(got, value, rtol=1e-7, atol=1e-9)


@FEW
@given(logits, logits, betas, st.sampled_from(KINDS))
def test_a_divergence_is_never_negative_and_zero_only_between_equals(student, teacher, beta, kind):
    student, teacher = logprobs(student), logprobs(teacher)
    assert divergence(student, teacher, kind, beta).item() >= -1e-12
    assert divergence(student, student, kind, beta).item() == pytest.approx(0.0, abs=1e-12)
    if (student - teacher).abs().max() > 0.1:
        assert divergence(student, teacher, kind, beta).item() > 0


@FEW
@given(logits, logits, betas)
def test_jsd_swaps_roles_when_beta_is_mirrored(student, teacher, beta):
    student, teacher = logprobs(student), logprobs(teacher)
    torch.testing.assert_close(
        divergence(student, teacher, "jsd", beta), divergence(teacher, student, "jsd", 1 - beta), rtol=1e-9, atol=1e-12
    )


@FEW
@given(logits, logits)
def test_jsd_is_bounded_by_the_entropy_of_its_coin(student, teacher):
    value = divergence(logprobs(student), logprobs(teacher), "jsd", 0.3).item()
    assert value <= -(0.3 * math.log(0.3) + 0.7 * math.log(0.7)) + 1e-12


@pytest.mark.parametrize(("beta", "scale", "kind"), [(1e-6, 1e-6, "forward_kl"), (1 - 1e-6, 1e-6, "reverse_kl")])
def test_jsd_over_its_scale_tends_to_a_kl_at_both_ends(beta, scale, kind, generator):
    student, teacher = torch.randn(2, 6, 7, generator=generator, dtype=torch.float64).log_softmax(dim=-1)
    assert divergence(student, teacher, "jsd", beta).max().item() < 1e-4
    limit = divergence(student, teacher, "jsd", beta) / scale
    torch.testing.assert_close(limit, divergence(student, teacher, kind), rtol=1e-4, atol=1e-6)


@FEW
@given(logits, logits, st.permutations(range(5)), st.sampled_from(KINDS))
def test_renaming_tokens_does_not_change_a_divergence(student, teacher, order, kind):
    student, teacher = logprobs(student), logprobs(teacher)
    torch.testing.assert_close(
        divergence(student[:, order], teacher[:, order], kind), divergence(student, teacher, kind)
    )
