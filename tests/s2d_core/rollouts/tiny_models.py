"""Tiny random models for the engines, and exact scores to hold them against."""

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from s2d_core.rollouts.types import Request, Rollout

EOS = 2
SHAPE = {
    "vocab_size": 24,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "tie_word_embeddings": True,
    "initializer_range": 0.3,
    "max_position_embeddings": 64,
    "eos_token_id": EOS,
    "bos_token_id": 1,
    "pad_token_id": 0,
}
FAMILIES = {"qwen3": Qwen3Config, "llama": LlamaConfig}


def tiny_model(family="qwen3", seed=0):
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(FAMILIES[family](**SHAPE), attn_implementation="sdpa").eval()


def make_requests(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (count,), generator=generator).tolist()
    prompts = [torch.randint(3, 24, (n,), generator=generator).tolist() for n in lengths]
    return [Request(f"p{i}", tuple(p), seed=1000 * seed + i) for i, p in enumerate(prompts)]


@torch.no_grad()
def exact_logprobs(model, rollout: Rollout) -> list[float]:
    """Teacher-forced log-probabilities at temperature 1."""
    ids = torch.tensor([[*rollout.prompt_ids, *rollout.completion_ids]])
    logprobs = torch.log_softmax(model(ids).logits[0].float(), dim=-1)
    start = len(rollout.prompt_ids) - 1
    return [logprobs[start + i, token].item() for i, token in enumerate(rollout.completion_ids)]


@torch.no_grad()
def first_token_probabilities(model, prompt) -> torch.Tensor:
    return torch.softmax(model(torch.tensor([list(prompt)])).logits[0, -1].double(), dim=-1)
