"""The shape of a decoder-only transformer of the Llama and Qwen kind, and how many parameters it has."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from s2d_core.errors import CheckpointError


@dataclass(frozen=True)
class Geometry:
    """``queries`` and ``keys`` are widths: heads × head dimension. ``head_norms``: Qwen3 normalises queries and keys.

    heads, kv_heads: as in the configuration; biases: of the query, key and value projections (Qwen2 has them).
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    head_norms: bool
    biases: bool = False

    @property
    def queries(self) -> int:
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def embedding(self) -> int:
        """Parameters of the input embedding, and of the head where it has its own."""
        return self.vocab * self.hidden

    @property
    def layer_parameters(self) -> int:
        projections = self.hidden * (2 * self.queries + 2 * self.keys + 3 * self.intermediate)
        vectors = 2 * self.hidden + 2 * self.head_dim * self.head_norms + (self.queries + 2 * self.keys) * self.biases
        return projections + vectors

    @property
    def root_parameters(self) -> int:
        """Those outside the layers: embedding, head and the last norm."""
        return self.embedding * (1 if self.tied else 2) + self.hidden

    @property
    def parameters(self) -> int:
        return self.layers * self.layer_parameters + self.root_parameters


def read_geometry(config: Mapping[str, Any], where: str) -> Geometry:
    """The geometry that a Hugging Face ``config.json`` describes; ``where`` is named in errors.

    Raises CheckpointError when sizes are missing: the folder holds no decoder-only language model.
    """
    wanted = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    if missing := [name for name in wanted if not isinstance(config.get(name), int)]:
        raise CheckpointError(
            f"{where}: config.json has no {', '.join(missing)}; give a decoder-only model of the Llama or Qwen kind"
        )
    heads, kind = config["num_attention_heads"], config.get("model_type", "")
    return Geometry(
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        intermediate=config["intermediate_size"],
        vocab=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", False)),
        head_norms=kind == "qwen3",
        biases=kind == "qwen2",
    )
