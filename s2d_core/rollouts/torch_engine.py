"""A compact batched sampler with a KV cache, for any Hugging Face causal LM. Knows token ids only.

It starts in no time and needs nothing but torch, and it is the reference vLLM is checked against. Each row's
randomness is a table of uniforms drawn from its request's seed and looked up by inverse CDF, so a completion does
not depend on what else was in the batch, nor on how requests were sharded.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from s2d_core.errors import RolloutError
from s2d_core.rollouts.types import NamedWeights, Request, Rollout, Sampling

COMPACT_BELOW = 0.5  # drop finished rows from the cache when fewer than this share is still running


class TorchEngine:
    """Samples from ``model``, its own copy or one that is being trained: then weights are shared, nothing is loaded.

    batch_size: sequences decoded at once; a group is never split, so one of more completions is a batch by itself.
    """

    def __init__(self, model: PreTrainedModel, eos_token_id: int, batch_size: int = 512) -> None:
        self.model, self.eos_token_id, self.batch_size = model, eos_token_id, batch_size

    def generate(self, requests: list[Request], sampling: Sampling) -> list[list[Rollout]]:
        """See ``Engine.generate``. Requests of like length are decoded together; the order returned is that asked."""
        per_batch = max(1, self.batch_size // sampling.n)
        order = sorted(range(len(requests)), key=lambda index: len(requests[index].prompt_ids))
        results: list[list[Rollout]] = [[] for _ in requests]
        was_training = self.model.training
        self.model.eval()
        try:
            for start in range(0, len(order), per_batch):
                indices = order[start : start + per_batch]
                for index, group in zip(indices, self._batch([requests[i] for i in indices], sampling), strict=True):
                    results[index] = group
        finally:
            self.model.train(was_training)
        return results

    @torch.no_grad()
    def load_weights(self, weights: NamedWeights) -> None:
        """Copy into the model's own parameters.

        Raises RolloutError for a name or shape the model does not have, and for parameters that were not given:
        sampling from half-new weights would go unnoticed.
        """
        parameters = dict(self.model.named_parameters(remove_duplicate=False))  # tied ones under each of their names
        missing = {id(parameter): name for name, parameter in parameters.items()}
        for name, value in weights:
            parameter = parameters.get(name)
            if parameter is None or parameter.shape != value.shape:
                wanted = "no such parameter" if parameter is None else f"shape {tuple(parameter.shape)}"
                raise RolloutError(
                    f"weight {name} of shape {tuple(value.shape)} cannot be loaded: the engine's model has {wanted}; "
                    "the engine and the trainer must be made from one model folder"
                )
            parameter.copy_(value)
            missing.pop(id(parameter), None)
        if missing:
            raise RolloutError(
                f"{len(missing)} of the model's weights were not given, among them {next(iter(missing.values()))}; "
                "load all of them at once"
            )

    def sleep(self) -> None:
        """Nothing: the model may be the one that is being trained."""

    def close(self) -> None:
        """Nothing outlives the object."""

    @torch.inference_mode()
    def _batch(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Rollout]]:
        n, device = sampling.n, self.model.device
        ids, mask = _left_pad([request.prompt_ids for request in requests], self.eos_token_id)
        ids, mask = ids.to(device), mask.to(device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache = DynamicCache(config=self.model.config)
        logits = self._forward(ids, positions, mask, cache)  # each prompt is read once, whatever n
        cache.batch_repeat_interleave(n)
        logits, mask = logits.repeat_interleave(n, 0), mask.repeat_interleave(n, 0)
        position = positions[:, -1:].repeat_interleave(n, 0)
        uniforms = torch.from_numpy(_uniforms(requests, sampling)).to(device)

        rows = torch.arange(len(logits), device=device)  # which completion each running row is
        tokens = torch.full((len(rows), sampling.max_tokens), self.eos_token_id, device=device)
        logprobs = torch.zeros(tokens.shape, device=device)
        lengths = torch.full((len(rows),), sampling.max_tokens, device=device)
        used = torch.zeros(len(requests), dtype=torch.long, device=device)  # tokens of each group
        for step in range(sampling.max_tokens):
            token, logprob = _pick(logits, uniforms[rows, step], sampling)
            tokens[rows, step], logprobs[rows, step] = token, logprob
            grown = lengths[rows] == sampling.max_tokens
            lengths[rows[grown & (token == self.eos_token_id)]] = step + 1
            if sampling.group_tokens is not None:
                used += (rows[grown] // n).bincount(minlength=len(requests))
                running = rows[lengths[rows] == sampling.max_tokens]
                spent = used + (running // n).bincount(minlength=len(requests)) > sampling.group_tokens
                lengths[running[spent[running // n]]] = step + 1
            running = lengths[rows] == sampling.max_tokens
            alive = int(running.sum())
            if alive == 0 or step + 1 == sampling.max_tokens:
                break
            if alive < COMPACT_BELOW * len(rows):
                keep = running.nonzero().squeeze(1)
                cache.batch_select_indices(keep)
                rows, token, mask, position = rows[keep], token[keep], mask[keep], position[keep]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            position = position + 1
            logits = self._forward(token[:, None], position, mask, cache)
        return _collect(requests, n, tokens, logprobs, lengths, self.eos_token_id)

    def _forward(self, ids: Tensor, positions: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        """Logits of the last position: [rows, vocab], float32."""
        output = self.model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float()


def processed_logprobs(logits: Tensor, sampling: Sampling) -> Tensor:
    """Log-probabilities after temperature, then top-k, then top-p: ``[rows, vocab] → [rows, vocab]``.

    Top-p keeps the smallest set of tokens whose mass reaches p.
    """
    logprobs = torch.log_softmax(logits / (sampling.temperature or 1.0), dim=-1)
    if not sampling.top_k and sampling.top_p == 1.0:
        return logprobs
    ordered, index = logprobs.sort(dim=-1, descending=True)
    keep = torch.ones_like(ordered, dtype=torch.bool)
    if sampling.top_k:
        keep[:, sampling.top_k :] = False
    if sampling.top_p < 1.0:
        probabilities = torch.softmax(ordered.masked_fill(~keep, -torch.inf), dim=-1)
        keep &= probabilities.cumsum(-1) - probabilities < sampling.top_p  # the mass before a token
    dropped = torch.zeros_like(keep).scatter(1, index, ~keep)
    return torch.log_softmax(logprobs.masked_fill(dropped, -torch.inf), dim=-1)


def _pick(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """(token, its log-probability) of each row; ``uniform``: one number in [0, 1) a row, used by inverse CDF."""
    logprobs = processed_logprobs(logits, sampling)
    if sampling.temperature == 0.0:
        token = logits.argmax(dim=-1)
    else:
        cumulative = logprobs.double().exp().cumsum(dim=-1)
        token = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True).squeeze(1)
        token = token.clamp(max=logits.shape[-1] - 1)
    return token, logprobs.gather(1, token[:, None]).squeeze(1)


def _uniforms(requests: Sequence[Request], sampling: Sampling) -> np.ndarray:
    """[requests × n, max_tokens] numbers in [0, 1), each request's from its own seed."""
    shape = (sampling.n, sampling.max_tokens)
    return np.concatenate([np.random.Generator(np.random.Philox(r.seed)).random(shape) for r in requests])


def _left_pad(prompts: Sequence[Sequence[int]], filler: int) -> tuple[Tensor, Tensor]:
    """([rows, longest] ids, [rows, longest] attention mask of 0 and 1)."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[filler] * (longest - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    return ids, mask


def _collect(
    requests: Sequence[Request], n: int, tokens: Tensor, logprobs: Tensor, lengths: Tensor, eos_token_id: int
) -> list[list[Rollout]]:
    ids, scores, ends = tokens.tolist(), logprobs.tolist(), lengths.tolist()
    groups: list[list[Rollout]] = []
    for index, request in enumerate(requests):
        group = []
        for row in range(index * n, (index + 1) * n):
            completion = ids[row][: ends[row]]
            reason: Literal["stop", "length"] = "stop" if completion[-1] == eos_token_id else "length"
            group.append(Rollout(request.problem_id, request.prompt_ids, completion, scores[row][: ends[row]], reason))
        groups.append(group)
    return groups
