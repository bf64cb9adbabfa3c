"""Tiny Qwen3-architecture models with random weights, that any Hugging Face tool can load."""

import torch
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from s2d_core.config.inputs import ScratchModel
from s2d_core.worlds.tokenizer import BOS, EOS, PAD, TOKEN_IDS, VOCABULARY

# The library's 0.02 is for widths in the thousands; at 64 it leaves the network close to linear for hundreds of steps.
INITIALIZER_RANGE = 0.08


def make_model(geometry: ScratchModel, seed: int, max_positions: int = 64) -> Qwen3ForCausalLM:
    """A float32 model with tied embeddings; ``seed`` alone decides its weights."""
    config = Qwen3Config(
        vocab_size=len(VOCABULARY),
        hidden_size=geometry.hidden_size,
        intermediate_size=geometry.intermediate_size,
        num_hidden_layers=geometry.layers,
        num_attention_heads=geometry.heads,
        num_key_value_heads=geometry.heads,
        head_dim=geometry.head_dim,
        max_position_embeddings=max_positions,
        tie_word_embeddings=True,
        initializer_range=INITIALIZER_RANGE,
        attention_dropout=0.0,
        bos_token_id=TOKEN_IDS[BOS],
        eos_token_id=TOKEN_IDS[EOS],
        pad_token_id=TOKEN_IDS[PAD],
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config).float()
    model.generation_config = GenerationConfig(
        bos_token_id=TOKEN_IDS[BOS], eos_token_id=TOKEN_IDS[EOS], pad_token_id=TOKEN_IDS[PAD], do_sample=True
    )
    return model
