"""A Hugging Face causal LM that reads packed micro-batches and hands hidden states to a loss.

The language-model head is never applied here: the loss gets hidden states and the head's weight, so that logits
exist only chunk by chunk. Calling through this module (not its backbone) is what makes FSDP gather the weights.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, PreTrainedModel

from s2d_core.errors import CheckpointError
from s2d_core.training.packing import MicroBatch

PACKED = "s2d_packed"
CAUSAL = (-1, 0)  # everything before, nothing after


def packed_attention(
    module: nn.Module,
    query: Tensor,  # [1, heads, tokens, head_dim]
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    scatter: Tensor | None = None,  # [tokens] → row of the [sequences × longest] view
    bounds: Tensor | None = None,  # [sequences + 1], int32: where each sequence starts, and the end
    longest: int = 0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each packed sequence.

    Where FlashAttention runs, on the packed tokens as they are. Elsewhere attention, and nothing else, sees a padded
    view ([sequences, longest]): padding sits behind each sequence, where the causal mask already hides it.
    """
    assert scatter is not None and bounds is not None
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [tokens, heads, head_dim]
        settings: Any = {"scale": scaling, "window_size": CAUSAL, "enable_gqa": True}
        packed: Any = varlen_attn(q, k, v, bounds, bounds, longest, longest, **settings)
        return packed.unsqueeze(0), None
    sequences = len(bounds) - 1

    def unpack(x: Tensor) -> Tensor:
        heads, _, width = x.shape[1:]
        rows = x.new_zeros(sequences * longest, heads, width)
        rows = rows.index_copy(0, scatter, x[0].transpose(0, 1))
        return rows.view(sequences, longest, heads, width).transpose(1, 2)

    out = F.scaled_dot_product_attention(
        unpack(query),
        unpack(key),
        unpack(value),
        is_causal=True,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    rows = out.transpose(1, 2).reshape(sequences * longest, out.shape[1], out.shape[3])
    return rows.index_select(0, scatter).unsqueeze(0), None


AttentionInterface.register(PACKED, packed_attention)


class Policy(nn.Module):
    """``forward(micro, head)`` returns ``head(hidden [predictions, hidden], lm_head weight [vocab, hidden])``.

    dtype: what it computes in; None: that of its weights. Trained weights may be wider, see ``parallel.shard``.
    """

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        model.set_attn_implementation(PACKED)
        self.model = model
        self.dtype = dtype or model.dtype

    def forward(self, micro: MicroBatch, head: Callable[[Tensor, Tensor], Any]) -> Any:
        longest = int(micro.lengths.max())
        sequence = torch.repeat_interleave(torch.arange(len(micro.lengths), device=micro.lengths.device), micro.lengths)
        hidden = self.model.base_model(
            input_ids=micro.input_ids[None],
            position_ids=micro.position_ids[None],
            use_cache=False,
            scatter=sequence * longest + micro.position_ids,
            bounds=F.pad(micro.lengths.cumsum(0), (1, 0)).to(torch.int32),
            longest=longest,
        ).last_hidden_state[0]
        return head(hidden[micro.predict_at], self.model.get_output_embeddings().weight)


def load_model(path: str | Path, dtype: str = "float32") -> PreTrainedModel:
    """A causal LM from a local safetensors folder. Raises CheckpointError when it is missing or damaged."""
    path = Path(path)
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{path}: no model here (config.json is missing); give a Hugging Face model folder")
    try:
        return AutoModelForCausalLM.from_pretrained(
            path,
            config=AutoConfig.from_pretrained(path, trust_remote_code=False),
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation="sdpa",
        )
    except Exception as error:  # safetensors, OSError, ValueError, KeyError: whichever part is damaged
        raise CheckpointError(f"{path}: cannot load the model: {error}; copy or train it again") from error
