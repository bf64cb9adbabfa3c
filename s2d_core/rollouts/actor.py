"""An engine in a process of its own: the Ray actor that a fleet is made of."""

import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from s2d_core.rollouts.types import Engine, Request, Rollout, Sampling


class RolloutActor:
    """Holds one engine. Made by ``Fleet``, which decides what each actor samples."""

    def __init__(self, factory: Callable[[], Engine]) -> None:
        torch.set_num_threads(1)
        self._engine: Any = factory()

    def pid(self) -> int:
        return os.getpid()

    def generate(self, requests: list[Request], sampling: Sampling) -> list[list[Rollout]]:
        return self._engine.generate(requests, sampling)

    def load_weights(self, weights: dict[str, np.ndarray]) -> None:
        """``weights`` lie in Ray's shared memory: every actor of a node reads the same copy."""
        self._engine.load_weights((name, _tensor(value)) for name, value in weights.items())

    def transfer(self, call: str, *info: dict[str, Any]) -> None:
        """A step of a transfer of weights from the trainer's device to the engine's, which is vLLM's."""
        self._engine.transfer(call, *info)


def to_shared(weights: Any) -> dict[str, np.ndarray]:
    """Named tensors as arrays that Ray stores once and maps without copying. bfloat16 travels as its bits."""
    return {name: _array(value.detach().cpu().contiguous()) for name, value in weights}


def _array(value: torch.Tensor) -> np.ndarray:
    return value.view(torch.uint16).numpy() if value.dtype == torch.bfloat16 else value.numpy()


def _tensor(value: np.ndarray) -> torch.Tensor:
    with warnings.catch_warnings():
        # Shared memory is read-only, which torch cannot express: the engine only copies from it.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(value)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor
