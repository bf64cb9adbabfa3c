"""Tiny random models for the engines, and exact scores to hold them against."""

import math
from collections import Counter

import torch
from scipy.stats import chisquare
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from s2d_core.rollouts.types import Request, Rollout, Sampling

EOS = 2
OTHER_STOPS = (5, 11)  # end-of-sequence tokens of the model folder's generation settings, as Qwen's has two
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
    "max_position_embeddings": 256,
    "eos_token_id": EOS,
    "bos_token_id": 1,
    "pad_token_id": 0,
}
FAMILIES = {"qwen3": Qwen3Config, "llama": LlamaConfig}
# Two tokens each: the second is drawn through the KV cache.
TRUNCATIONS = [
    Sampling(max_tokens=2),
    Sampling(max_tokens=2, temperature=0.6),
    Sampling(max_tokens=2, top_k=5),
    Sampling(max_tokens=2, top_p=0.7),
    Sampling(max_tokens=2, temperature=1.5, top_p=0.8, top_k=12),
]


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


def truncated(logits: torch.Tensor, sampling: Sampling) -> dict[int, float]:
    """Token → probability after temperature, top-k and top-p, one token at a time in float64: by the definitions."""
    ranked = sorted(enumerate((logits.double() / sampling.temperature).softmax(-1).tolist()), key=lambda pair: -pair[1])
    ranked = ranked[: sampling.top_k or None]
    total, mass, kept = sum(probability for _, probability in ranked), 0.0, {}
    for token, probability in ranked:
        if mass >= sampling.top_p * total:
            break
        kept[token] = probability
        mass += probability
    return {token: probability / mass for token, probability in kept.items()}


@torch.no_grad()
def truncated_logprobs(model, rollout: Rollout, sampling: Sampling) -> list[float]:
    """Teacher-forced log-probabilities of the truncated distribution; KeyError for a token that it excludes."""
    logits = model(torch.tensor([[*rollout.prompt_ids, *rollout.completion_ids]])).logits[0]
    start = len(rollout.prompt_ids) - 1
    rows = (truncated(logits[start + i], sampling)[token] for i, token in enumerate(rollout.completion_ids))
    return [math.log(probability) for probability in rows]


@torch.no_grad()
def completion_probabilities(model, prompt, sampling: Sampling) -> dict[tuple[int, ...], float]:
    """Every completion of at most ``sampling.max_tokens`` tokens → its exact probability."""
    done, open_ = {}, {(): 1.0}
    for _ in range(sampling.max_tokens):
        extended = {}
        for ids, weight in open_.items():
            row = truncated(model(torch.tensor([[*prompt, *ids]])).logits[0, -1], sampling)
            for token, probability in row.items():
                (done if token == EOS else extended)[(*ids, token)] = weight * probability
        open_ = extended
    return done | open_


def goodness_of_fit(rollouts: list[Rollout], probabilities: dict[tuple[int, ...], float]) -> float:
    """The p-value of Pearson's chi-square test; completions expected fewer than 5 times are counted together."""
    counts = Counter(tuple(rollout.completion_ids) for rollout in rollouts)
    assert counts.keys() <= probabilities.keys(), "an excluded completion was sampled"
    expected = {ids: len(rollouts) * probability for ids, probability in probabilities.items()}
    common = [ids for ids in expected if expected[ids] >= 5]
    observed = [counts[ids] for ids in common]
    wanted = [expected[ids] for ids in common]
    if len(common) < len(expected):
        observed.append(len(rollouts) - sum(observed))
        wanted.append(len(rollouts) - sum(wanted))
    return float(chisquare(observed, wanted).pvalue)
