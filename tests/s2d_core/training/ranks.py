"""A process group of several ranks on this machine, and small stages for them to train."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from s2d_core.config.schema import RolloutsConfig, TrainingConfig, VerifierConfig
from s2d_core.config.stages import DivergenceConfig, OptimiserConfig, TrainedStage
from s2d_core.spec import StageSpec
from s2d_core.training import parallel
from s2d_core.training.context import Context
from s2d_core.training.packing import Example
from s2d_core.training.sources import Batch, Source


def on_ranks(count: int, function: Callable[..., None], *arguments: Any) -> None:
    """``function(*arguments)`` on ``count`` gloo ranks, each a process of its own."""
    mp.spawn(_join, args=(count, _free_port(), function, arguments), nprocs=count)


def with_another(function: Callable[..., None], *arguments: Any) -> None:
    """``function(*arguments)`` on two gloo ranks, the first of them this process, which has imported everything."""
    port = _free_port()
    other = mp.spawn(_join_second, args=(port, function, arguments), join=False)
    _join(0, 2, port, function, arguments)
    other.join()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _join_second(_: int, port: int, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    _join(1, 2, port, function, arguments)


def _join(rank: int, count: int, port: int, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count)
    try:
        function(*arguments)
    finally:
        dist.destroy_process_group()


class Ragged(Source):
    """The same sequences of very different lengths on any number of ranks; ``per_step`` of them a step."""

    def __init__(self, vocab: int, per_step: int = 7) -> None:
        self.vocab, self.per_step = vocab, per_step

    def batch(self, step: int, clock: Any) -> Batch:
        mine = range(step * self.per_step + parallel.rank(), (step + 1) * self.per_step, parallel.world_size())
        return Batch([self.example(index) for index in mine])

    def example(self, index: int) -> Example:
        generator = torch.Generator().manual_seed(index)
        length = int(torch.randint(3, 20, (), generator=generator)) * (1 + 2 * (index % 4 == 0))
        ids = torch.randint(self.vocab, (length,), generator=generator).tolist()
        return Example(ids[:2], ids[2:])

    def load_weights(self, weights: Any) -> None:
        for _ in weights:  # collective: every rank takes all of them
            pass


def stage(steps: int, lr: float = 1e-3) -> TrainedStage:
    return TrainedStage(steps=steps, optimiser=OptimiserConfig(lr=lr, warmup_steps=2, decay="constant"))


def context(store: Path, **training: Any) -> Context:
    execution = {
        "store": str(store),
        "training": TrainingConfig(**training).model_dump(),
        "rollouts": RolloutsConfig().model_dump(),
        "verifier": VerifierConfig().model_dump(),
    }
    made = Context(StageSpec(kind="train", name="warmup", settings={}, seed=0, execution=execution))
    made.directory.mkdir(parents=True, exist_ok=True)
    return made


FORWARD_KL = DivergenceConfig(kind="forward_kl")
