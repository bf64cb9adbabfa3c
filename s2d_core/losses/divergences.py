"""Divergences between student and teacher next-token distributions, from hidden states, a chunk at a time.

In all of them the gradient reaches the student only, and log-probabilities are float32 or wider. The models' widths
may differ; where their vocabularies do (padding rows), both are cut to the rows they share.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from s2d_core.losses.chunking import LossOutput, at_least_float32, chunked_loss, for_each_chunk

Kind = Literal["forward_kl", "reverse_kl", "jsd"]
OVERLAP_K = 8


def divergence(
    student: Float[Tensor, "tokens vocab"], teacher: Float[Tensor, "tokens vocab"], kind: Kind, beta: float = 0.5
) -> Float[Tensor, "tokens"]:
    """Per-token divergence of two sets of log-probabilities, in nats.

    ``forward_kl``: KL(teacher‖student) = Σ_v t (log t − log s), mode covering. ``reverse_kl``: KL(student‖teacher) =
    Σ_v s (log s − log t), mode seeking. ``jsd``: generalised Jensen–Shannon (arXiv 2306.13649, Eq. 1), with the mixture
    m = β t + (1 − β) s: β KL(t‖m) + (1 − β) KL(s‖m), 0 < β < 1. It tends to 0 at both ends (about β(1 − β) times a KL),
    so its values and learning rates do not compare with those of the two KLs.
    """
    if kind == "forward_kl":
        return _kl(teacher, student)
    if kind == "reverse_kl":
        return _kl(student, teacher)
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    return beta * _kl(teacher, mixture) + (1.0 - beta) * _kl(student, mixture)


def chunked_divergence(
    student_hidden: Float[Tensor, "tokens student_hidden"],
    student_weight: Float[Tensor, "student_vocab student_hidden"],
    teacher_hidden: Float[Tensor, "tokens teacher_hidden"],
    teacher_weight: Float[Tensor, "teacher_vocab teacher_hidden"],
    weights: Float[Tensor, "tokens"],
    *,
    kind: Kind,
    beta: float = 0.5,
    teacher_temperature: float = 1.0,
    chunk: int = 4096,
) -> LossOutput:
    """``Σ weights · D(student, teacher)`` over the full vocabulary (``divergence``); the default dense loss.

    The teacher's logits are divided by ``teacher_temperature``. ``reverse_kl`` on the student's own samples is OPD: its
    gradient is, in expectation, the policy gradient whose advantage at each token is that token's implicit reward
    log t(y) − log s(y) (paper v4, Eq. 3). It is not that of the KL of whole sequences, which also counts what a token
    does to the KL of later states: the states are data here.
    Metrics: ``kl`` (the divergence), entropies of both, and ``overlap``, the shared part of their top-8 tokens.
    """
    teacher = TeacherLogprobs(student_weight, teacher_hidden, teacher_weight, teacher_temperature)

    def loss(logits: Tensor, rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
        ours, theirs = torch.log_softmax(logits[:, : teacher.vocab], dim=-1), teacher(rows)
        value = (weights[rows] * divergence(ours, theirs, kind, beta)).sum()
        measured = token_statistics(ours.detach(), theirs)
        return value, {"kl": value, **{name: (weights[rows] * each).sum() for name, each in measured.items()}}

    return chunked_loss(student_hidden, student_weight, loss, chunk)


def top_k_divergence(
    student_hidden: Float[Tensor, "tokens student_hidden"],
    student_weight: Float[Tensor, "student_vocab student_hidden"],
    teacher_hidden: Float[Tensor, "tokens teacher_hidden"],
    teacher_weight: Float[Tensor, "teacher_vocab teacher_hidden"],
    weights: Float[Tensor, "tokens"],
    *,
    kind: Kind,
    k: int,
    beta: float = 0.5,
    teacher_temperature: float = 1.0,
    chunk: int = 4096,
) -> LossOutput:
    """The divergence on the teacher's ``k`` likeliest tokens, both distributions renormalised to them.

    Renormalising is what keeps it stable: without it the reverse KL drives mass out of the support (arXiv 2605.11182).
    What a teacher that is only served can afford. Metric ``covered``: the student's mass on the support.
    """
    teacher = TeacherLogprobs(student_weight, teacher_hidden, teacher_weight, teacher_temperature)

    def loss(logits: Tensor, rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
        ours = torch.log_softmax(logits[:, : teacher.vocab], dim=-1)
        theirs, support = teacher(rows).topk(min(k, teacher.vocab), dim=-1)
        return _on_support(ours, theirs, support, weights[rows], kind, beta)

    return chunked_loss(student_hidden, student_weight, loss, chunk)


@torch.no_grad()
def top_k_logprobs(
    hidden: Float[Tensor, "tokens hidden"],
    weight: Float[Tensor, "vocab hidden"],
    k: int,
    *,
    chunk: int = 4096,
) -> tuple[Int[Tensor, "tokens k"], Float[Tensor, "tokens k"]]:
    """The ``k`` likeliest tokens of each row, likeliest first, and their log-probabilities in nats, at temperature 1;
    all tokens where ``k`` is more than there are.

    Of a teacher, with the rows of its head that the student has too, it is what ``stored_top_k_divergence`` reads.
    """
    k = min(k, weight.shape[0])
    logprobs = at_least_float32(hidden.new_empty(len(hidden), k))
    ids = torch.empty(logprobs.shape, dtype=torch.long, device=hidden.device)

    def visit(logits: Tensor, rows: slice) -> None:
        logprobs[rows], ids[rows] = torch.log_softmax(logits, dim=-1).topk(k, dim=-1)

    for_each_chunk(hidden, weight, chunk, visit)
    return ids, logprobs


def stored_top_k_divergence(
    student_hidden: Float[Tensor, "tokens student_hidden"],
    student_weight: Float[Tensor, "student_vocab student_hidden"],
    teacher_ids: Int[Tensor, "tokens k"],
    teacher_logprobs: Float[Tensor, "tokens k"],
    weights: Float[Tensor, "tokens"],
    *,
    kind: Kind,
    beta: float = 0.5,
    teacher_temperature: float = 1.0,
    chunk: int = 4096,
) -> LossOutput:
    """``top_k_divergence`` from the teacher's ``top_k_logprobs``: neither its hidden states nor its head are needed.

    Log-probabilities and logits differ by a constant, which renormalising undoes: the temperature may divide either.
    """

    def loss(logits: Tensor, rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
        ours = torch.log_softmax(logits, dim=-1)
        theirs = teacher_logprobs[rows] / teacher_temperature
        return _on_support(ours, theirs, teacher_ids[rows].long(), weights[rows], kind, beta)

    return chunked_loss(student_hidden, student_weight, loss, chunk)


def _on_support(
    ours: Float[Tensor, "tokens vocab"],
    theirs: Float[Tensor, "tokens k"],
    support: Int[Tensor, "tokens k"],
    weights: Float[Tensor, "tokens"],
    kind: Kind,
    beta: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, metrics) of a chunk from log-probabilities, both renormalised to ``support``."""
    inside = ours.gather(1, support)
    per_token = divergence(torch.log_softmax(inside, -1), torch.log_softmax(theirs, -1), kind, beta)
    covered = inside.detach().exp().sum(dim=-1)
    value = (weights * per_token).sum()
    return value, {"kl": value, "covered": (weights * covered).sum()}


def sampled_token_divergence(
    student_hidden: Float[Tensor, "tokens student_hidden"],
    student_weight: Float[Tensor, "student_vocab student_hidden"],
    teacher_hidden: Float[Tensor, "tokens teacher_hidden"],
    teacher_weight: Float[Tensor, "teacher_vocab teacher_hidden"],
    targets: Int[Tensor, "tokens"],
    weights: Float[Tensor, "tokens"],
    *,
    teacher_temperature: float = 1.0,
    chunk: int = 4096,
) -> LossOutput:
    """Reverse KL estimated at the student's sampled token: ``−Σ weights · Â · log s(y)``.

    Â = log t(y) − log s(y) is held fixed: the policy gradient of the implicit reward (paper v4, Eq. 3). Its expectation
    over y ∼ s is the full-vocabulary reverse KL's gradient; its variance is what the full vocabulary saves.
    Metric ``kl``: the mean of −Â.
    """
    teacher = TeacherLogprobs(student_weight, teacher_hidden, teacher_weight, teacher_temperature)

    def loss(logits: Tensor, rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
        picked = targets[rows, None]
        ours = torch.log_softmax(logits[:, : teacher.vocab], dim=-1).gather(1, picked).squeeze(1)
        advantage = teacher(rows).gather(1, picked).squeeze(1) - ours.detach()
        value = -(weights[rows] * advantage * ours).sum()
        return value, {"kl": -(weights[rows] * advantage).sum()}

    return chunked_loss(student_hidden, student_weight, loss, chunk)


class TeacherLogprobs:
    """Teacher log-probabilities of a chunk of rows, on the shared vocabulary, without gradient."""

    def __init__(self, student_weight: Tensor, hidden: Tensor, weight: Tensor, temperature: float) -> None:
        self.vocab = min(student_weight.shape[0], weight.shape[0])
        self.hidden, self.temperature = hidden.detach(), temperature
        self.weight = at_least_float32(weight.detach()[: self.vocab])

    @torch.no_grad()
    def __call__(self, rows: slice) -> Tensor:
        logits = at_least_float32(self.hidden[rows]) @ self.weight.T
        return torch.log_softmax(logits / self.temperature, dim=-1)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p‖q) of log-probabilities; where p underflows to 0 its term is 0."""
    probability = p.exp()
    return torch.where(probability > 0, probability * (p - q), torch.zeros_like(p)).sum(dim=-1)


@torch.no_grad()
def token_statistics(
    student: Float[Tensor, "tokens vocab"], teacher: Float[Tensor, "tokens vocab"]
) -> dict[str, Float[Tensor, "tokens"]]:
    """For each token the entropies of both distributions of log-probabilities, and the shared part of their top-8s."""
    k = min(OVERLAP_K, student.shape[-1])
    ours, theirs = (x.topk(k, dim=-1, sorted=False).indices for x in (student, teacher))
    return {
        "student_entropy": -(student.exp() * student).sum(dim=-1),
        "teacher_entropy": -(teacher.exp() * teacher).sum(dim=-1),
        "overlap": (ours[:, :, None] == theirs[:, None, :]).sum(dim=(1, 2)) / k,
    }
