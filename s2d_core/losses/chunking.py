"""A weighted-sum loss over rows, computed from hidden states a chunk of logits at a time.

Because the loss is a plain sum over rows, each chunk's gradient is known as soon as its logits are: it is taken
in the forward pass, and the logits are dropped before the next chunk's are made. Nothing is recomputed, and never
more than ``[chunk, vocab]`` is alive. The gradient of the weight is accumulated in float32.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


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
    """Σ over chunks of ``loss(hidden[rows] @ weight.T, rows)``, differentiable in ``hidden`` and ``weight``."""
    metrics: dict[str, Tensor] = {}
    total = _ChunkedLoss.apply(hidden, weight, loss, chunk, metrics)
    return LossOutput(total, metrics)


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32; float64 stays float64."""
    return x if x.dtype == torch.float64 else x.float()


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, loss: ChunkLoss, chunk: int, metrics: dict[str, Tensor]
    ) -> Tensor:
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        wide = at_least_float32(weight.detach())
        total = wide.new_zeros(())
        grad_hidden = torch.zeros_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(wide) if wants_weight else None
        for start in range(0, hidden.shape[0], chunk):
            rows = slice(start, start + chunk)
            states = at_least_float32(hidden.detach()[rows])
            logits = (states @ wide.T).requires_grad_(wants_hidden or wants_weight)
            with torch.enable_grad():
                value, parts = loss(logits, rows)
            total = total + value.detach()
            for name, part in parts.items():
                metrics[name] = metrics.get(name, 0.0) + part.detach()
            if not logits.requires_grad:
                continue
            (grad_logits,) = torch.autograd.grad(value, logits)
            if grad_hidden is not None:
                grad_hidden[rows] = (grad_logits @ wide).to(hidden.dtype)
            if grad_weight is not None:
                grad_weight.addmm_(grad_logits.T, states)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        grad_hidden, grad_weight = ctx.saved_tensors
        return (
            None if grad_hidden is None else grad_hidden * grad.to(grad_hidden.dtype),
            None if grad_weight is None else (grad_weight * grad).to(ctx.weight_dtype),
            None,
            None,
            None,
        )
