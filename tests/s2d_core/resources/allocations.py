"""Bytes of tensors that really are alive in a step of the training loop, at most: what a prediction is held against."""

import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from s2d_core.config.schema import TrainingConfig
from s2d_core.config.stages import DenseStage, ImitationStage, LoraConfig, OptimiserConfig, SparseStage
from s2d_core.losses import top_k_logprobs
from s2d_core.rollouts.top_k import StoredTopK, write_top_k
from s2d_core.training import loop, parallel
from s2d_core.training.lora import adapt
from s2d_core.training.objectives import Divergence, NextToken, PolicyGradient, StoredDivergence
from s2d_core.training.optimiser import make_optimiser
from s2d_core.training.packing import Example, pack
from s2d_core.training.policy import Policy
from tests.s2d_core.allocated import Allocations

PROMPT = 8
OPTIMISER = OptimiserConfig(lr=1e-3)


def measured_peak(
    student: PreTrainedConfig,
    teacher: PreTrainedConfig,
    loss: str,
    *,
    dtype: str,
    checkpointing: bool,
    length: int,
    sequences: int,
    micro_batches: int,
    chunk: int,
    lora: LoraConfig | None = None,
) -> int:
    """The most bytes in the second of two steps of the real loop, on random weights, models and optimiser included.

    Sequences are equally long: each of ``micro_batches`` holds ``sequences`` of them.
    """
    completion = length - PROMPT
    example = Example([5] * PROMPT, [6] * completion, [0.0] * completion, 1.0)
    training = TrainingConfig(token_budget=length * sequences, logits_chunk=chunk)
    context = SimpleNamespace(training=training, spec=SimpleNamespace(id="measured"))
    with tempfile.TemporaryDirectory() as folder, Allocations() as allocations:
        if loss == "stored_top_k":
            example = replace(example, teacher=_top_k(Path(folder), completion))
        batch = SimpleNamespace(examples=[example] * (sequences * micro_batches))
        policy = _policy(student, dtype, checkpointing, lora)
        stage, objective = _objective(loss, student, teacher, dtype, completion, chunk)
        optimiser = make_optimiser(policy.parameters(), OPTIMISER)
        for step in range(2):
            allocations.peak = allocations.alive
            loop._optimise(context, stage, policy, optimiser, objective, batch, step)
    return allocations.peak


def measured_storing(teacher: PreTrainedConfig, *, dtype: str, length: int, sequences: int, chunk: int) -> int:
    """The most bytes while a random teacher's top 5 of one micro-batch are found, the teacher included."""
    completion = length - PROMPT
    examples = [Example([5] * PROMPT, [6] * completion)] * sequences
    with Allocations() as allocations, torch.no_grad():
        micro = pack(examples, [torch.zeros(completion)] * sequences)
        _frozen(teacher, dtype)(micro, lambda hidden, head: top_k_logprobs(hidden, head, 5, chunk=chunk))
    return allocations.peak


def _objective(loss, student, teacher, dtype, completion, chunk):
    common = {"steps": 2, "optimiser": OPTIMISER, "prompts_per_step": 1, "group_size": 2}
    common["sampling"] = {"max_tokens": completion}
    if loss == "nll":
        return ImitationStage(**common), NextToken(chunk)
    if loss == "policy_gradient":
        stage = SparseStage(**common, policy_gradient={"kl_coefficient": 1e-3})
        return stage, PolicyGradient(stage, chunk, _frozen(student, dtype))
    full = loss in ("forward_kl", "reverse_kl", "jsd")
    divergence = {"kind": loss if full else "reverse_kl", "estimator": "full" if full else loss.removeprefix("stored_")}
    stage = DenseStage(**common, divergence=divergence)
    if loss == "stored_top_k":
        return stage, StoredDivergence(stage.divergence, chunk)
    return stage, Divergence(stage.divergence, chunk, [(_frozen(teacher, dtype), 1.0)])


def _top_k(folder, completion):
    """The same distribution over five tokens, at every token of a completion."""
    path = folder / "top_k.safetensors"
    write_top_k(path, torch.arange(5).repeat(completion, 1), torch.full((completion, 5), -2.0))
    return StoredTopK(path, 0, completion)


def _policy(config, dtype, checkpointing, lora):
    model = _load(config, dtype if lora else "float32")
    if lora:
        adapt(model, lora, seed=0)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return parallel.shard(Policy(model, getattr(torch, dtype))).train()


def _frozen(config, dtype):
    return parallel.shard(Policy(_load(config, dtype).requires_grad_(False)))


def _load(config, dtype):
    return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), attn_implementation="sdpa")
