"""Log-probabilities of given tokens, and next-token loss, from hidden states."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from s2d_core.losses.chunking import LossOutput, at_least_float32, chunked_loss


def chunked_logprobs(
    hidden: Float[Tensor, "tokens hidden"],
    weight: Float[Tensor, "vocab hidden"],
    targets: Int[Tensor, "tokens"],
    *,
    temperature: float = 1.0,
    chunk: int = 4096,
) -> tuple[Float[Tensor, "tokens"], Float[Tensor, "tokens"]]:
    """``log softmax(hidden · weightᵀ / temperature)`` at ``targets``, and the distributions' entropies (detached).

    In float32 or wider. At most ``[chunk, vocab]`` is alive: a chunk's logits are recomputed in the backward pass.
    A temperature of 0 (greedy sampling) is scored at 1.
    """
    parts = [
        checkpoint(
            _logprobs,
            hidden[rows],
            weight,
            targets[rows],
            temperature or 1.0,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for rows in (slice(start, start + chunk) for start in range(0, len(targets), chunk))
    ]
    if not parts:
        empty = at_least_float32(hidden).sum(dim=1)
        return empty, empty.detach()
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


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


def _logprobs(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    logits = at_least_float32(hidden) @ at_least_float32(weight).T / temperature
    logprobs = torch.log_softmax(logits, dim=-1)
    with torch.no_grad():
        entropy = -(logprobs.exp() * logprobs).sum(dim=-1)
    return logprobs.gather(1, targets[:, None]).squeeze(1), entropy
