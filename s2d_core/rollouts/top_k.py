"""A model's likeliest tokens at each completion token of a shard of rollouts, in a file beside the shard.

    <shard>.parquet                          rollouts, see ``files.py``
    <shard>.top<k>-of-<vocab>.safetensors    ids: [tokens, k] int32; logprobs: [tokens, k] float32, in nats

Tokens are those of all completions, in the order of the shard's rows: 8·k bytes each. In float16 they would take 6·k
and move the loss of a token by up to 1e-3.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from s2d_core.store import whole


@dataclass(frozen=True, slots=True)
class StoredTopK:
    """The rows of one rollout: ``start`` to ``end`` of the file ``path``."""

    path: Path
    start: int
    end: int

    def read(self) -> tuple[Tensor, Tensor]:
        """(token ids [tokens, k] int32, log-probabilities [tokens, k] float32)."""
        with safe_open(self.path, framework="pt") as file:
            ids, logprobs = (file.get_slice(name)[self.start : self.end] for name in ("ids", "logprobs"))
        return ids, logprobs


def top_k_path(shard: Path, k: int, vocab: int) -> Path:
    """Where the ``k`` likeliest of the first ``vocab`` tokens are kept for ``shard``."""
    return shard.with_name(f"{shard.stem}.top{k}-of-{vocab}.safetensors")


def write_top_k(path: Path, ids: Tensor, logprobs: Tensor) -> None:
    """ids, logprobs: [tokens, k]; whatever carries the name ``path`` is whole."""
    with whole(path) as partial:
        save_file({"ids": ids.to(torch.int32), "logprobs": logprobs.float()}, partial)


def stored_rows(path: Path, lengths: Iterable[int]) -> list[StoredTopK]:
    """Where in the file ``path`` each rollout has its rows; lengths: tokens of each of the shard's completions."""
    bounds = pairwise(accumulate(lengths, initial=0))
    return [StoredTopK(path, start, end) for start, end in bounds]
