"""What goes into an engine and what comes out. Engines know token ids only: no text, no rewards, no labels."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from s2d_core.rollouts.top_k import StoredTopK


@dataclass(frozen=True, slots=True)
class Sampling:
    """Decoding settings. ``temperature`` 0 is greedy; ``top_p`` 1 and ``top_k`` 0 switch truncation off.

    ``group_tokens``: what all completions of a request may have together (``stragglers.py``); None: no limit.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    n: int = 1  # completions a request: the group size
    group_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to complete. ``seed`` alone decides its randomness, so results do not depend on sharding."""

    problem_id: str
    prompt_ids: tuple[int, ...]
    seed: int


@dataclass(slots=True)
class Rollout:
    """One sampled completion.

    ``logprobs`` are the sampler's log-probabilities of ``completion_ids`` under the distribution it really
    sampled from (temperature, top-p and top-k applied), one for each token, the EOS token included. ``teacher``: what
    its teacher thinks of each token, where that is on disk.
    """

    problem_id: str
    prompt_ids: tuple[int, ...]
    completion_ids: list[int]
    logprobs: list[float]
    finish_reason: Literal["stop", "length"]
    reward: float | None = None
    teacher: StoredTopK | None = None


NamedWeights = Iterable[tuple[str, Tensor]]  # Hugging Face parameter names


class Engine(Protocol):
    """A sampler of one model."""

    def generate(self, requests: list[Request], sampling: Sampling) -> list[list[Rollout]]:
        """Complete every request ``sampling.n`` times; one inner list for each request, in order."""
        ...

    def load_weights(self, weights: NamedWeights) -> None:
        """Replace the model's weights, in memory, and forget every cached prefix."""
        ...

    def sleep(self) -> None:
        """Give up a shared device's memory, weights included: ``load_weights`` comes before the next ``generate``."""
        ...

    def close(self) -> None:
        """Free the engine's memory and processes."""
        ...
