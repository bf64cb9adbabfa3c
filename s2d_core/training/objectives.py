"""Row of the stage table → the loss of one micro-batch. The formulas are in ``s2d_core/losses``."""

from typing import Any, Protocol

import torch
from torch import Tensor

from s2d_core.config.schema import DenseStage, SparseStage
from s2d_core.losses import (
    LossOutput,
    chunked_divergence,
    chunked_logprobs,
    chunked_nll,
    policy_gradient,
    sampled_token_divergence,
    top_k_divergence,
)
from s2d_core.training.packing import MicroBatch
from s2d_core.training.policy import Policy


class Objective(Protocol):
    def __call__(self, policy: Policy, micro: MicroBatch, old_logprobs: Tensor | None) -> LossOutput: ...


class NextToken:
    """−log π(token) on given text."""

    def __init__(self, chunk: int) -> None:
        self.chunk = chunk

    def __call__(self, policy: Policy, micro: MicroBatch, old_logprobs: Tensor | None) -> LossOutput:
        return policy(
            micro,
            lambda hidden, head: chunked_nll(hidden, head, micro.targets, micro.weights, chunk=self.chunk),
        )


class PolicyGradient:
    """Clipped policy gradient; ``reference`` is the frozen starting policy when the KL coefficient is positive."""

    def __init__(self, stage: SparseStage, chunk: int, reference: Policy | None) -> None:
        self.config, self.chunk, self.reference = stage.policy_gradient, chunk, reference
        self.temperature = stage.sampling.temperature

    def logprobs(self, policy: Policy, micro: MicroBatch) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies of ``micro`` under ``policy``: [predictions], [predictions]."""
        return policy(
            micro,
            lambda hidden, head: chunked_logprobs(
                hidden, head, micro.targets, temperature=self.temperature, chunk=self.chunk
            ),
        )

    def __call__(self, policy: Policy, micro: MicroBatch, old_logprobs: Tensor | None) -> LossOutput:
        reference = None
        if self.reference is not None:
            with torch.no_grad():
                reference, _ = self.logprobs(self.reference, micro)
        logprobs, entropy = self.logprobs(policy, micro)
        output = policy_gradient(
            logprobs,
            logprobs.detach() if old_logprobs is None else old_logprobs,
            micro.advantages,
            micro.weights,
            clip_low=self.config.clip_low,
            clip_high=self.config.clip_high,
            sampler_logprobs=micro.sampler_logprobs,
            truncated_importance_cap=self.config.truncated_importance_cap,
            ref_logprobs=reference,
            kl_coefficient=self.config.kl_coefficient,
        )
        output.metrics["entropy"] = (micro.weights * entropy).sum()
        return output


class Divergence:
    """Divergence from the frozen teacher, which is read here, chunk by chunk."""

    def __init__(self, stage: DenseStage, chunk: int, teacher: Policy) -> None:
        self.config, self.chunk, self.teacher = stage.divergence, chunk, teacher

    def __call__(self, policy: Policy, micro: MicroBatch, old_logprobs: Tensor | None) -> LossOutput:
        with torch.no_grad():
            teacher_hidden, teacher_head = self.teacher(micro, lambda hidden, head: (hidden, head))
        config, weights = self.config, micro.weights

        def head(hidden: Tensor, weight: Tensor) -> LossOutput:
            models = (hidden, weight, teacher_hidden, teacher_head)
            shared: dict[str, Any] = {"teacher_temperature": config.teacher_temperature, "chunk": self.chunk}
            if config.estimator == "sampled_token":
                return sampled_token_divergence(*models, micro.targets, weights, **shared)
            if config.estimator == "top_k":
                return top_k_divergence(*models, weights, kind=config.kind, k=config.top_k, beta=config.beta, **shared)
            return chunked_divergence(*models, weights, kind=config.kind, beta=config.beta, **shared)

        return policy(micro, head)
