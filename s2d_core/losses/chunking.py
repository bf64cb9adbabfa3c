"""Losses over rows of logits that exist a chunk at a time. Knows hidden states and the head's weight, no model.

A weighted-sum loss knows each chunk's gradient as soon as it has the chunk's logits, so the gradient is taken in the
forward pass and only scaled in the backward pass: no matrix product is repeated, no logits are kept, and never more
than ``[chunk, vocab]`` is alive. All arithmetic is float32 or wider, autocast or not; gradients of ``hidden`` and
``weight`` are accumulated in that width and rounded to the input's dtype once.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass
class LossOutput:
    """loss: scalar to differentiate. metrics: detached sums, each Σ weights·x, so that they add up over
    micro-batches and ranks like the loss does."""

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


# logits of a chunk [rows, vocab] in float32 or wider, and the chunk's rows → (scalar loss, metrics)
ChunkLoss = Callable[[Tensor, slice], tuple[Tensor, dict[str, Tensor]]]


def chunked_loss(
    hidden: Float[Tensor, "tokens hidden"], weight: Float[Tensor, "vocab hidden"], loss: ChunkLoss, chunk: int
) -> LossOutput:
    """Σ over chunks of ``loss(hidden[rows] @ weight.T, rows)``, once differentiable in ``hidden`` and ``weight``."""
    if not torch.is_grad_enabled():  # autograd asks for gradients even then
        hidden, weight = hidden.detach(), weight.detach()
    metrics: dict[str, Tensor] = {}
    total = _ChunkedLoss.apply(hidden, weight, loss, chunk, metrics)
    return LossOutput(total, metrics)


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32; float64 stays float64."""
    return x if x.dtype == torch.float64 else x.float()


def for_each_chunk(
    hidden: Float[Tensor, "tokens hidden"],
    weight: Float[Tensor, "vocab hidden"],
    chunk: int,
    visit: Callable[[Tensor, slice], Tensor | None],
    wants: tuple[bool, bool] = (False, False),
) -> tuple[Tensor | None, Tensor | None]:
    """Calls ``visit(logits, rows)`` for each chunk and pulls the gradient of the logits that it returns back to
    (``hidden``, ``weight``), each in float32 or wider, or None where ``wants`` says so."""
    wants_hidden, wants_weight = wants
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        wide = at_least_float32(weight)
        grad_hidden = torch.zeros_like(hidden, dtype=wide.dtype) if wants_hidden else None
        grad_weight = torch.zeros_like(wide) if wants_weight else None
        for start in range(0, hidden.shape[0], chunk):
            rows = slice(start, start + chunk)
            states = at_least_float32(hidden[rows])
            grad_logits = visit(states @ wide.T, rows)
            if grad_logits is None:
                continue
            if grad_hidden is not None:
                torch.mm(grad_logits, wide, out=grad_hidden[rows])
            if grad_weight is not None:
                grad_weight.addmm_(grad_logits.T, states)
    return grad_hidden, grad_weight


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, loss: ChunkLoss, chunk: int, metrics: dict[str, Tensor]
    ) -> Tensor:
        wants = ctx.needs_input_grad[:2]
        total = at_least_float32(hidden.new_zeros(()))

        def visit(logits: Tensor, rows: slice) -> Tensor | None:
            with torch.set_grad_enabled(any(wants)):
                value, parts = loss(logits.requires_grad_(any(wants)), rows)
            total.add_(value.detach())
            for name, part in parts.items():
                metrics[name] = metrics.get(name, 0.0) + part.detach()
            return torch.autograd.grad(value, logits)[0] if any(wants) else None

        ctx.save_for_backward(*for_each_chunk(hidden, weight, chunk, visit, wants))
        ctx.dtypes = hidden.dtype, weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (
            None if saved is None else (saved * grads[0]).to(dtype)
            for saved, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return *scaled, None, None, None
