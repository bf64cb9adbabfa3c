"""Qwen3's and Llama's architectures, narrow: heads, ratios, normalisation, rope and tying are theirs."""

from copy import deepcopy

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

VOCAB = 512
SHARED = {"num_hidden_layers": 2, "max_position_embeddings": 4096, "attn_implementation": "sdpa"}
# Qwen3-1.7B an eighth, Llama-3.1-8B a sixteenth as wide, of two layers.
GEOMETRIES = {
    "qwen3": Qwen3Config(
        **SHARED,
        vocab_size=VOCAB,
        hidden_size=256,
        intermediate_size=768,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=16,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
    ),
    "llama": LlamaConfig(
        **SHARED,
        vocab_size=VOCAB,
        hidden_size=256,
        intermediate_size=896,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=8,
        rms_norm_eps=1e-5,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 5e5,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        tie_word_embeddings=False,
    ),
}


def model(name: str, seed: int = 0):
    torch.manual_seed(seed)
    # A model keeps its configuration and writes its kind of attention into it.
    return AutoModelForCausalLM.from_config(deepcopy(GEOMETRIES[name]))


def teacher():
    """Narrower than the students, and with padding rows in its vocabulary."""
    torch.manual_seed(1)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    return AutoModelForCausalLM.from_config(Qwen3Config(**SHARED, **shape, vocab_size=VOCAB + 64, head_dim=32))
