"""GRPO: group-normalised advantages and the clipped policy gradient. Knows log-probabilities, no model."""

import torch
from jaxtyping import Float
from torch import Tensor

from s2d_core.losses.chunking import LossOutput

STD_EPSILON = 1e-6


def group_advantages(
    rewards: Float[Tensor, "groups group_size"], scale_by_std: bool = True
) -> Float[Tensor, "groups group_size"]:
    """``A = (r − mean) / (std + 1e-6)`` within each group (arXiv 2402.03300, §4.1.2); std with ddof = 1.

    Without ``scale_by_std``: ``A = r − mean`` (Dr. GRPO). A group whose rewards are all exactly equal gets exactly 0,
    whatever rounding does to its mean.
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    if scale_by_std:
        centred = centred / (rewards.std(dim=1, keepdim=True, correction=1) + STD_EPSILON)
    constant = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)
    return torch.where(constant, torch.zeros_like(centred), centred)


def policy_gradient(
    logprobs: Float[Tensor, "tokens"],
    old_logprobs: Float[Tensor, "tokens"],
    advantages: Float[Tensor, "tokens"],
    weights: Float[Tensor, "tokens"],
    *,
    clip_low: float,
    clip_high: float,
    sampler_logprobs: Float[Tensor, "tokens"] | None = None,
    truncated_importance_cap: float | None = None,
    ref_logprobs: Float[Tensor, "tokens"] | None = None,
    kl_coefficient: float = 0.0,
) -> LossOutput:
    """``Σ weights · [ −w · min(ρ A, clip(ρ, 1 − clip_low, 1 + clip_high) A) + kl_coefficient · k3 ]``.

    ρ = exp(logprobs − old_logprobs), clipped as in PPO; a ``clip_high`` above ``clip_low`` is DAPO's clip-higher
    (arXiv 2503.14476, Eq. 10). w = min(exp(old_logprobs − sampler_logprobs), cap) is truncated importance sampling: the
    sampler and the trainer compute the same policy differently; w carries no gradient and is 1 without a cap.
    k3 = exp(ref − logprobs) − (ref − logprobs) − 1 (GRPO, arXiv 2402.03300, Eq. 4; Schulman 2020) estimates KL(π‖ref)
    without bias on samples of π; its gradient is then, in expectation, that of KL(ref‖π).
    ``old_logprobs`` and the others carry no gradient.
    """
    old_logprobs = old_logprobs.detach()
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    per_token = -torch.minimum(ratio * advantages, clipped * advantages)
    metrics = {
        "clip_fraction": (weights * (clipped * advantages < ratio * advantages)).sum(),
        "approx_kl": (weights * (ratio - 1.0 - (logprobs - old_logprobs))).sum(),
    }
    if sampler_logprobs is not None:
        gap = old_logprobs - sampler_logprobs.detach()
        metrics["sampler_gap"] = (weights * gap.abs()).sum()
        if truncated_importance_cap is not None:
            importance = gap.exp().clamp(max=truncated_importance_cap)
            per_token = importance * per_token
            metrics["importance_weight"] = (weights * importance).sum()
    if ref_logprobs is not None and kl_coefficient:
        difference = ref_logprobs.detach() - logprobs
        k3 = torch.exp(difference) - difference - 1.0
        per_token = per_token + kl_coefficient * k3
        metrics["kl_to_reference"] = (weights * k3).sum()
    return LossOutput((weights * per_token).sum(), {name: value.detach() for name, value in metrics.items()})
