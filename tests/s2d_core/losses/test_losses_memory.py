"""What is alive while the chunked losses run."""

import pytest
import torch

from s2d_core.losses import (
    chunked_divergence,
    chunked_logprobs,
    chunked_nll,
    stored_top_k_divergence,
    top_k_divergence,
    top_k_logprobs,
)
from tests.s2d_core.allocated import Allocations

TOKENS, VOCAB, CHUNK = 400, 1000, 8
LOGITS = TOKENS * VOCAB * 4  # bytes


def models() -> tuple[torch.Tensor, ...]:
    hidden, weight = torch.randn(TOKENS, 4, requires_grad=True), torch.randn(VOCAB, 4, requires_grad=True)
    return hidden, weight, torch.randn(TOKENS, 4), torch.randn(VOCAB, 4)


LOSSES = {
    "full": lambda m, w, y: chunked_divergence(*m, w, kind="jsd", chunk=CHUNK).loss,
    "top_k": lambda m, w, y: top_k_divergence(*m, w, kind="reverse_kl", k=5, chunk=CHUNK).loss,
    "stored_top_k": lambda m, w, y: (
        stored_top_k_divergence(*m[:2], *top_k_logprobs(*m[2:], 5, chunk=CHUNK), w, kind="forward_kl", chunk=CHUNK).loss
    ),
    "nll": lambda m, w, y: chunked_nll(*m[:2], y, w, chunk=CHUNK).loss,
    "logprobs": lambda m, w, y: chunked_logprobs(*m[:2], y, chunk=CHUNK)[0].sum(),
}


@pytest.mark.parametrize("name", LOSSES)
def test_only_a_few_chunks_of_logits_are_alive_at_once(name):
    given, weights, targets = models(), torch.rand(TOKENS), torch.randint(VOCAB, (TOKENS,))
    with Allocations() as ledger:
        loss = LOSSES[name](given, weights, targets)
        kept = ledger.alive
        loss.backward()
    assert ledger.peak < LOGITS / 2
    assert kept < LOGITS / 16, "no logits are kept for the backward pass"


def test_a_dense_divergence_keeps_several_tensors_of_logits():
    hidden, weight, teacher_hidden, teacher_weight = models()
    with Allocations() as ledger:
        student, teacher = ((h @ w.T).log_softmax(-1) for h, w in ((hidden, weight), (teacher_hidden, teacher_weight)))
        loss = (student.exp() * (student - teacher)).sum()
        assert ledger.alive > 4 * LOGITS
        loss.backward()
    assert ledger.peak > 5 * LOGITS


def test_measuring_without_gradients_makes_none():
    given, weights = models(), torch.rand(TOKENS)
    with Allocations() as trained:
        chunked_divergence(*given, weights, kind="reverse_kl", chunk=CHUNK)
    with torch.no_grad(), Allocations() as measured:
        chunked_divergence(*given, weights, kind="reverse_kl", chunk=CHUNK)
    assert measured.peak < trained.peak - CHUNK * VOCAB * 4
