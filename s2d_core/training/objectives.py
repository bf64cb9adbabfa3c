"""Row of the stage table → the loss of one micro-batch. The formulas are in ``s2d_core/losses``."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from s2d_core.config.stages import DivergenceConfig, SparseStage
from s2d_core.losses import (
    LossOutput,
    chunked_divergence,
    chunked_logprobs,
    chunked_nll,
    policy_gradient,
    sampled_token_divergence,
    stored_top_k_divergence,
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
        return policy(micro, lambda hidden, head: self.read(hidden, head, micro))

    def read(self, hidden: Tensor, head: Tensor, micro: MicroBatch) -> tuple[Tensor, Tensor]:
        """The same from hidden states [predictions, hidden] and output embedding [vocab, hidden]."""
        return chunked_logprobs(hidden, head, micro.targets, temperature=self.temperature, chunk=self.chunk)

    def __call__(self, policy: Policy, micro: MicroBatch, old_logprobs: Tensor | None) -> LossOutput:
        reference = None
        if self.reference is not None:
            with torch.no_grad():
                reference, _ = self.logprobs(self.reference, micro)
        return self.loss(*self.logprobs(policy, micro), micro, old_logprobs, reference)

    def loss(
        self,
        logprobs: Tensor,
        entropy: Tensor,
        micro: MicroBatch,
        old_logprobs: Tensor | None,
        reference: Tensor | None = None,
    ) -> LossOutput:
        """The loss from what the policy says of ``micro``; all tensors are [predictions]."""
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


# [predictions, hidden], [vocab, hidden] → loss
Head = Callable[[Tensor, Tensor], LossOutput]


class Divergence:
    """Divergence from frozen models, which are read here, chunk by chunk.

    target: models with signs; the target's logits are the signed sum of theirs, usually the teacher's alone.
    """

    def __init__(self, config: DivergenceConfig, chunk: int, target: Sequence[tuple[Policy, float]]) -> None:
        self.config, self.chunk, self.target = config, chunk, target

    def __call__(self, policy: Policy, micro: MicroBatch, old_logprobs: Tensor | None) -> LossOutput:
        return policy(micro, self.head(micro))

    def head(self, micro: MicroBatch) -> Head:
        """The loss as a function of the policy's hidden states and output embedding."""
        target_hidden, target_head = self._target(micro)
        config, weights = self.config, micro.weights

        def head(hidden: Tensor, weight: Tensor) -> LossOutput:
            models = (hidden, weight, target_hidden, target_head)
            shared: dict[str, Any] = {"teacher_temperature": config.teacher_temperature, "chunk": self.chunk}
            if config.estimator == "sampled_token":
                return sampled_token_divergence(*models, micro.targets, weights, **shared)
            if config.estimator == "top_k":
                return top_k_divergence(*models, weights, kind=config.kind, k=config.top_k, beta=config.beta, **shared)
            return chunked_divergence(*models, weights, kind=config.kind, beta=config.beta, **shared)

        return head

    @torch.no_grad()
    def _target(self, micro: MicroBatch) -> tuple[Tensor, Tensor]:
        """Hidden states [predictions, hidden] and output embedding [vocab, hidden] whose product are the logits.

        A signed sum of products is one product of concatenations: no logits are made here.
        """
        read = [(sign, *model(micro, lambda hidden, head: (hidden, head))) for model, sign in self.target]
        if len(read) == 1 and read[0][0] == 1.0:
            return read[0][1], read[0][2]
        return torch.cat([sign * hidden for sign, hidden, _ in read], 1), torch.cat([head for _, _, head in read], 1)


class StoredDivergence:
    """Divergence from the teacher's likeliest tokens, which the micro-batch brings along: no teacher is read."""

    def __init__(self, config: DivergenceConfig, chunk: int) -> None:
        self.config, self.chunk = config, chunk

    def __call__(self, policy: Policy, micro: MicroBatch, old_logprobs: Tensor | None) -> LossOutput:
        config = self.config

        def head(hidden: Tensor, weight: Tensor) -> LossOutput:
            return stored_top_k_divergence(
                hidden,
                weight,
                micro.teacher_ids,
                micro.teacher_logprobs,
                micro.weights,
                kind=config.kind,
                beta=config.beta,
                teacher_temperature=config.teacher_temperature,
                chunk=self.chunk,
            )

        return policy(micro, head)


class Mixed:
    """``sparse_weight`` · policy gradient + (1 − ``sparse_weight``) · divergence, from one pass of the policy."""

    def __init__(self, sparse: PolicyGradient, dense: Divergence, sparse_weight: float) -> None:
        self.sparse, self.dense, self.sparse_weight = sparse, dense, sparse_weight

    def logprobs(self, policy: Policy, micro: MicroBatch) -> tuple[Tensor, Tensor]:
        return self.sparse.logprobs(policy, micro)

    def __call__(self, policy: Policy, micro: MicroBatch, old_logprobs: Tensor | None) -> LossOutput:
        divergence = self.dense.head(micro)

        def both(hidden: Tensor, head: Tensor) -> tuple[tuple[Tensor, Tensor], LossOutput]:
            return self.sparse.read(hidden, head, micro), divergence(hidden, head)

        (logprobs, entropy), dense = policy(micro, both)
        sparse = self.sparse.loss(logprobs, entropy, micro, old_logprobs)
        loss = self.sparse_weight * sparse.loss + (1.0 - self.sparse_weight) * dense.loss
        return LossOutput(loss, dense.metrics | sparse.metrics)
