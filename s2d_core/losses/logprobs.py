"""Log-probabilities of given tokens, and next-token loss, from hidden states, a chunk of logits at a time."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from s2d_core.losses.chunking import LossOutput, at_least_float32, chunked_loss, for_each_chunk


def chunked_logprobs(
    hidden: Float[Tensor, "tokens hidden"],
    weight: Float[Tensor, "vocab hidden"],
    targets: Int[Tensor, "tokens"],
    *,
    temperature: float = 1.0,
    chunk: int = 4096,
) -> tuple[Float[Tensor, "tokens"], Float[Tensor, "tokens"]]:
    """``log softmax(hidden · weightᵀ / temperature)`` at ``targets``, and the distributions' entropies in nats.

    In float32 or wider; the entropies carry no gradient. What the loss will make of each log-probability is unknown
    here, so a chunk's logits are computed again in the backward pass: at most ``[chunk, vocab]`` is ever alive.
    A temperature of 0 (greedy sampling) is scored at 1.
    """
    return _ChunkedLogprobs.apply(hidden, weight, targets, temperature or 1.0, chunk)


def chunked_nll(
    hidden: Float[Tensor, "tokens hidden"],
    weight: Float[Tensor, "vocab hidden"],
    targets: Int[Tensor, "tokens"],
    weights: Float[Tensor, "tokens"],
    *,
    chunk: int = 4096,
) -> LossOutput:
    """Next-token loss ``−Σ weights · log π(target)``."""

    def loss(logits: Tensor, rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
        logprobs = torch.log_softmax(logits, dim=-1).gather(1, targets[rows, None]).squeeze(1)
        return -(weights[rows] * logprobs).sum(), {}

    return chunked_loss(hidden, weight, loss, chunk)


class _ChunkedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        picked = at_least_float32(hidden.new_empty(len(targets)))
        entropy = torch.empty_like(picked)

        def visit(logits: Tensor, rows: slice) -> None:
            logprobs = torch.log_softmax(logits / temperature, dim=-1)
            picked[rows] = logprobs.gather(1, targets[rows, None]).squeeze(1)
            entropy[rows] = -(logprobs.exp() * logprobs).sum(dim=-1)

        for_each_chunk(hidden, weight, chunk, visit)
        ctx.save_for_backward(hidden, weight, targets)
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.mark_non_differentiable(entropy)
        return picked, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets = ctx.saved_tensors
        scale = grads[0][:, None] / ctx.temperature

        def visit(logits: Tensor, rows: slice) -> Tensor:
            """d log π(y) / d logits = (onehot(y) − π) / temperature."""
            descent = torch.softmax(logits / ctx.temperature, dim=-1).mul_(-scale[rows])
            return descent.scatter_add_(1, targets[rows, None], scale[rows])

        grad_hidden, grad_weight = for_each_chunk(hidden, weight, ctx.chunk, visit, ctx.needs_input_grad[:2])
        return (
            None if grad_hidden is None else grad_hidden.to(hidden.dtype),
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None,
            None,
            None,
        )
