"""Losses, pure torch: tensors in, a scalar and its metrics out. They know no model, no rollout and no label."""

from s2d_core.losses.chunking import LossOutput
from s2d_core.losses.distances import token_distances
from s2d_core.losses.divergences import (
    chunked_divergence,
    divergence,
    sampled_token_divergence,
    stored_top_k_divergence,
    top_k_divergence,
    top_k_logprobs,
)
from s2d_core.losses.logprobs import chunked_logprobs, chunked_nll
from s2d_core.losses.normalisation import token_weights
from s2d_core.losses.policy_gradient import group_advantages, policy_gradient

__all__ = [
    "LossOutput",
    "chunked_divergence",
    "chunked_logprobs",
    "chunked_nll",
    "divergence",
    "group_advantages",
    "policy_gradient",
    "sampled_token_divergence",
    "stored_top_k_divergence",
    "token_distances",
    "token_weights",
    "top_k_divergence",
    "top_k_logprobs",
]
