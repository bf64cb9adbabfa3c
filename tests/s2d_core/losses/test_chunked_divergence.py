"""The chunked losses against the same sums over whole logits, in float64; then precision, shapes and memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.distributions import Categorical, kl_divergence

from s2d_core.losses import chunked_divergence, chunked_logprobs, chunked_nll

FEW = settings(max_examples=25, deadline=None)  # a first call may be slow on a busy machine

KINDS = ["forward_kl", "reverse_kl", "jsd"]
TOKENS = 7


def inputs(
    seed: int = 0, *, tokens: int = TOKENS, student: tuple[int, int] = (11, 3), teacher: tuple[int, int] = (11, 5)
) -> dict[str, torch.Tensor]:
    """Hidden states and heads; ``student`` and ``teacher`` are (vocabulary, hidden size)."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "student_hidden": normal(tokens, student[1]).requires_grad_(),
        "student_weight": normal(*student).requires_grad_(),
        "teacher_hidden": normal(tokens, teacher[1]).requires_grad_(),
        "teacher_weight": normal(*teacher).requires_grad_(),
        "weights": torch.rand(tokens, generator=generator, dtype=torch.float64),
    }


def whole(given: dict[str, torch.Tensor], kind: str, beta: float, temperature: float = 1.0) -> torch.Tensor:
    """The same loss from all logits at once, by torch.distributions."""
    shared = min(len(given["student_weight"]), len(given["teacher_weight"]))
    student = Categorical(logits=(given["student_hidden"] @ given["student_weight"].T)[:, :shared])
    teacher = Categorical(
        logits=(given["teacher_hidden"] @ given["teacher_weight"].T)[:, :shared].detach() / temperature
    )
    mixture = Categorical(probs=beta * teacher.probs + (1 - beta) * student.probs)
    value = {
        "forward_kl": lambda: kl_divergence(teacher, student),
        "reverse_kl": lambda: kl_divergence(student, teacher),
        "jsd": lambda: beta * kl_divergence(teacher, mixture) + (1 - beta) * kl_divergence(student, mixture),
    }[kind]()
    return (given["weights"] * value).sum()


def student_gradients(loss: torch.Tensor, given: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(loss, (given["student_hidden"], given["student_weight"]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_loss_and_gradients_equal_those_of_whole_logits(kind, chunk):
    given = inputs()
    output = chunked_divergence(**given, kind=kind, beta=0.3, teacher_temperature=1.7, chunk=chunk)
    expected = whole(given, kind, 0.3, 1.7)
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(output.metrics["kl"], expected.detach())
    torch.testing.assert_close(student_gradients(output.loss, given), student_gradients(expected, given))


@pytest.mark.parametrize("kind", KINDS)
def test_the_backward_pass_is_the_derivative_of_the_forward_pass(kind):
    given = inputs(tokens=5, student=(4, 3), teacher=(4, 2))

    def loss(hidden, weight):
        # Squared, so that the incoming gradient is not 1.
        student = {"student_hidden": hidden, "student_weight": weight}
        return chunked_divergence(**{**given, **student}, kind=kind, chunk=2).loss ** 2

    assert gradcheck(loss, (given["student_hidden"], given["student_weight"]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_teacher_gets_no_gradient(kind):
    given = inputs()
    chunked_divergence(**given, kind=kind).loss.backward()
    assert given["teacher_hidden"].grad is None
    assert given["teacher_weight"].grad is None
    assert given["student_hidden"].grad.abs().sum() > 0


@pytest.mark.parametrize(("student_vocab", "teacher_vocab"), [(11, 16), (16, 11)])
@pytest.mark.parametrize("kind", KINDS)
def test_vocabularies_are_cut_to_the_rows_they_share(student_vocab, teacher_vocab, kind):
    given = inputs(student=(student_vocab, 3), teacher=(teacher_vocab, 6))
    output = chunked_divergence(**given, kind=kind, chunk=3)
    expected = whole(given, kind, 0.5)
    torch.testing.assert_close(output.loss, expected)
    gradients = student_gradients(output.loss, given)
    torch.testing.assert_close(gradients, student_gradients(expected, given))
    assert gradients[1][11:].abs().sum() == 0


def test_a_student_equal_to_its_teacher_is_at_rest():
    given = inputs()
    given |= {"teacher_hidden": given["student_hidden"], "teacher_weight": given["student_weight"]}
    for kind in KINDS:
        output = chunked_divergence(**given, kind=kind)
        assert output.loss.item() == pytest.approx(0.0, abs=1e-12)
        assert all(gradient.abs().max() < 1e-12 for gradient in student_gradients(output.loss, given))
        assert output.metrics["overlap"].item() == pytest.approx(given["weights"].sum().item())


def test_entropies_and_overlap_are_weighted_sums():
    given = inputs()
    metrics = chunked_divergence(**given, kind="reverse_kl", teacher_temperature=2.0, chunk=2).metrics
    student = Categorical(logits=given["student_hidden"] @ given["student_weight"].T)
    teacher = Categorical(logits=given["teacher_hidden"] @ given["teacher_weight"].T / 2.0)
    torch.testing.assert_close(metrics["student_entropy"], given["weights"] @ student.entropy())
    torch.testing.assert_close(metrics["teacher_entropy"], given["weights"] @ teacher.entropy())
    best = [
        [set(sorted(range(11), key=row.__getitem__)[-8:]) for row in each.logits.tolist()]
        for each in (student, teacher)
    ]
    shares = [len(ours & theirs) / 8 for ours, theirs in zip(*best, strict=True)]
    torch.testing.assert_close(metrics["overlap"], given["weights"] @ torch.tensor(shares, dtype=torch.float64))


@FEW
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 8), st.sampled_from(KINDS))
def test_splitting_a_batch_changes_neither_loss_nor_gradient(seed, cut, chunk, kind):
    given = inputs(seed)
    rows = ("student_hidden", "teacher_hidden", "weights")
    parts = [{n: x[part] if n in rows else x for n, x in given.items()} for part in (slice(cut), slice(cut, None))]
    outputs = [chunked_divergence(**part, kind=kind, chunk=chunk) for part in parts]
    expected = chunked_divergence(**given, kind=kind)
    torch.testing.assert_close(outputs[0].loss + outputs[1].loss, expected.loss)
    torch.testing.assert_close(
        student_gradients(outputs[0].loss + outputs[1].loss, given), student_gradients(expected.loss, given)
    )
    for name, value in expected.metrics.items():
        torch.testing.assert_close(outputs[0].metrics[name] + outputs[1].metrics[name], value)


@FEW
@given(st.integers(0, 2**31), st.permutations(range(TOKENS)), st.sampled_from(KINDS))
def test_the_order_of_tokens_does_not_matter(seed, order, kind):
    given = inputs(seed)
    rows = ("student_hidden", "teacher_hidden", "weights")
    shuffled = {name: x[order] if name in rows else x for name, x in given.items()}
    expected, got = (chunked_divergence(**each, kind=kind, chunk=3).loss for each in (given, shuffled))
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(student_gradients(got, given), student_gradients(expected, given))


def relative_error(got: torch.Tensor, exact: torch.Tensor) -> float:
    return ((got.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("kind", "beta"), [("forward_kl", 0.5), ("reverse_kl", 0.5), ("jsd", 0.5), ("jsd", 0.1)])
def test_bfloat16_gradients_are_within_half_a_percent_on_sharp_logits(kind, beta, autocast):
    exact = inputs(tokens=64, student=(517, 64), teacher=(517, 96))
    exact = {name: x.detach().to(torch.bfloat16).double() if name != "weights" else x for name, x in exact.items()}
    rounded = {name: x.bfloat16() if name != "weights" else x.float() for name, x in exact.items()}
    for each in (exact, rounded):  # logits of standard deviation 8 and 10: most rows are all but decided
        each["student_hidden"].requires_grad_()
        each["student_weight"].requires_grad_()
    expected = student_gradients(whole(exact, kind, beta), exact)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        output = chunked_divergence(**rounded, kind=kind, beta=beta, chunk=10)
    assert output.loss.dtype == torch.float32
    got = student_gradients(output.loss * 0.3, rounded)  # a factor that bfloat16 cannot hold
    assert all(gradient.dtype == torch.bfloat16 for gradient in got)
    for gradient, true in zip(got, expected, strict=True):
        assert relative_error(gradient, 0.3 * true) <= 0.005
    assert output.loss.item() == pytest.approx(whole(exact, kind, beta).item(), rel=1e-4)


def test_many_chunks_do_not_cost_bfloat16_weight_gradients_their_precision():
    # Five hundred small contributions vanish when they are added up in bfloat16.
    generator = torch.Generator().manual_seed(0)
    hidden = (1 + 0.1 * torch.randn(512, 8, generator=generator)).bfloat16()
    weight = torch.randn(16, 8, generator=generator).bfloat16().requires_grad_()
    targets = torch.randint(16, (512,), generator=generator)
    wide = weight.detach().double().requires_grad_()
    exact = -(torch.log_softmax(hidden.double() @ wide.T, dim=-1)[torch.arange(512), targets]).sum()
    (expected,) = torch.autograd.grad(exact, wide)
    nll = chunked_nll(hidden, weight, targets, torch.ones(512), chunk=1).loss
    logprobs = -chunked_logprobs(hidden, weight, targets, chunk=1)[0].sum()
    for loss in (nll, logprobs):
        (got,) = torch.autograd.grad(loss, weight)
        assert relative_error(got, expected) <= 0.005


def test_no_tokens_give_zero_loss_and_zero_gradients():
    given = inputs(tokens=0)
    output = chunked_divergence(**given, kind="reverse_kl")
    assert output.loss.item() == 0.0
    hidden, weight = student_gradients(output.loss, given)
    assert hidden.shape == (0, 3)
    assert weight.abs().sum() == 0


@pytest.mark.parametrize("frozen", ["student_hidden", "student_weight"])
def test_what_is_frozen_gets_no_gradient_and_the_other_is_right(frozen):
    given = inputs()
    free = ({"student_hidden", "student_weight"} - {frozen}).pop()
    (expected,) = torch.autograd.grad(whole(given, "reverse_kl", 0.5), given[free])
    given[frozen] = given[frozen].detach()
    chunked_divergence(**given, kind="reverse_kl").loss.backward()
    torch.testing.assert_close(given[free].grad, expected)
    assert given[frozen].grad is None


def test_measuring_without_gradients_gives_the_same_value():
    given = inputs()
    with torch.no_grad():
        output = chunked_divergence(**given, kind="reverse_kl", chunk=2)
    assert not output.loss.requires_grad
    torch.testing.assert_close(output.loss, whole(given, "reverse_kl", 0.5).detach())


def test_a_second_derivative_is_refused_rather_than_wrong():
    given = inputs()
    loss = chunked_divergence(**given, kind="reverse_kl").loss
    (gradient,) = torch.autograd.grad(loss**2, given["student_hidden"], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
