"""Weights that turn per-token losses into one sum for the whole optimiser step."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Normalisation = Literal["token_mean", "sequence_mean", "constant"]


def token_weights(
    lengths: Int[Tensor, "sequences"],
    normalisation: Normalisation,
    *,
    total_tokens: int,
    total_sequences: int,
    max_tokens: int,
) -> Float[Tensor, "tokens"]:
    """The weight of every completion token, sequences end to end.

    ``token_mean``: 1/total_tokens (DAPO, arXiv 2503.14476, Eq. 8). ``sequence_mean``: 1/(total_sequences·length), the
    mean of sequence means (GRPO, arXiv 2402.03300, Eq. 3). ``constant``: 1/(total_sequences·max_tokens) (Dr. GRPO,
    arXiv 2503.20783). The totals run over all micro-batches and ranks of the optimiser step, so a step's loss is a
    plain sum and splitting a batch never changes its gradient.
    """
    if normalisation == "token_mean":
        per_sequence = torch.full(lengths.shape, 1.0 / max(1, total_tokens))
    elif normalisation == "sequence_mean":
        per_sequence = 1.0 / (total_sequences * lengths.clamp(min=1).float())
    else:
        per_sequence = torch.full(lengths.shape, 1.0 / (total_sequences * max_tokens))
    return torch.repeat_interleave(per_sequence.to(lengths.device), lengths)
