"""New weights from the trainer's GPU to those of a fleet's vLLM engines, by vLLM's own weight-transfer engines.

vLLM's engine on this side sends what a ``WeightSource`` yields, and steers the receivers by the calls of a client. Two
things are left to us. The trainer gathers its weights as they are taken, once, so one update is several sends, each of
a part of them. And each actor is a vLLM of its own, which must be told its place in the group of all.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from threading import Thread
from typing import Any

import torch
from torch import Tensor

from s2d_core.errors import RolloutError
from s2d_core.rollouts.types import NamedWeights
from s2d_core.rollouts.vllm_engine import set_environment, with_head

PART = 512 << 20  # bytes that are sent at once; the trainer's GPU has room for twice as many

Part = list[tuple[str, Tensor]]


class ActorsClient:
    """vLLM's ``VLLMWeightSyncClient`` over the actors of a fleet: each call goes to all of them and waits for all.

    ranks_each: processes of one actor's engine, each a rank of the group that the trainer is rank 0 of. timeout_s: the
    limit of each call. ``failed`` ends with the RolloutError of the call that fails.
    """

    def __init__(self, actors: Sequence[Any], ranks_each: int, timeout_s: float) -> None:
        self._actors, self._ranks_each, self._timeout_s = actors, ranks_each, timeout_s
        self.failed: Future[None] = Future()

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """``init_info`` is for one engine; where it names that one's first rank, each gets its own."""
        infos = [dict(init_info) for _ in self._actors]
        if "rank_offset" in init_info:
            for worker, info in enumerate(infos):
                info["rank_offset"] += worker * self._ranks_each
        self.call("init_weight_transfer_engine", infos)

    def start_weight_update(self) -> None:
        """Nothing: ``Transfer.send`` begins and finishes the update that a part belongs to."""

    def update_weights(self, update_info: Any) -> None:
        """Have the actors receive a part."""
        self.call("update_weights", [update_info for _ in self._actors])

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Nothing, as ``start_weight_update``."""

    def call(self, name: str, infos: Sequence[Any] | None = None) -> None:
        """vLLM's call of this name, with each actor's own of ``infos``. Raises RolloutError naming the worker."""
        try:
            self._call(name, infos)
        except RolloutError as error:
            self.failed.set_exception(error)
            raise

    def _call(self, name: str, infos: Sequence[Any] | None) -> None:
        import ray

        deadline = time.monotonic() + self._timeout_s
        pending = {
            actor.transfer.remote(name, *([] if infos is None else [infos[worker]])): worker
            for worker, actor in enumerate(self._actors)
        }
        while pending:  # whoever answers first: the others may be waiting for one that is dead
            ready, _ = ray.wait(list(pending), num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                names = ", ".join(f"rollout worker {worker}" for worker in sorted(pending.values()))
                raise RolloutError(
                    f"{names}: no answer to {name} within rollouts.sync_timeout_s = {self._timeout_s:g} s; "
                    "is its node alive? If the model is large, raise the limit"
                )
            worker = pending.pop(ready[0])
            try:
                ray.get(ready[0])
            except ray.exceptions.RayError as error:  # it died, or raised what the last line says
                reason = str(error).strip().splitlines()[-1]
                raise RolloutError(f"rollout worker {worker} got no weights, {name} failed: {reason}") from error


class Transfer:
    """Sends weights to the actors of one fleet.

    open_engine: (client, source) → vLLM's engine on this side, connected to the client's actors. tied: whether the
    model's head is its embedding. ranks_each: processes of each actor's engine. part: bytes sent at once.
    """

    def __init__(
        self, open_engine: Callable[[Any, Any], Any], *, tied: bool, ranks_each: int = 1, part: int = PART
    ) -> None:
        self._open_engine, self._tied, self._ranks_each, self._part = open_engine, tied, ranks_each, part
        self._actors: list[Any] = []  # that the engine is connected to
        self._client: Any = None
        self._source: Any = None
        self._engine: Any = None

    def send(self, actors: Sequence[Any], weights: NamedWeights, timeout_s: float) -> None:
        """Replace the weights of every actor's engine. Any that came since the last time are connected first.

        Raises RolloutError naming the actor that died, failed, or did not answer a call within ``timeout_s``; then all
        of them are useless, for they may have a part of the weights.
        """
        try:
            if self._actors != list(actors):
                self._connect(list(actors), timeout_s)
            self._client.call("start_weight_update")
            for part in parts(with_head(weights, self._tied), self._part):
                self._send(part)
            self._client.call("finish_weight_update")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave the group, even where a send still waits in it."""
        if self._engine is not None:
            self._engine.shutdown()
        self._actors, self._engine = [], None

    def _connect(self, actors: list[Any], timeout_s: float) -> None:
        """A group keeps the members it was formed with, so an actor that takes a dead one's place takes a new group."""
        self.close()
        self._client, self._source = ActorsClient(actors, self._ranks_each, timeout_s), _part_source()
        self._client.call("shutdown_weight_transfer_engine")
        self._engine = self._watched(lambda: self._open_engine(self._client, self._source))
        self._actors = actors

    def _send(self, part: Part) -> None:
        self._source.part = [(name, value.to(_device())) for name, value in part]  # trained on the host, perhaps
        # What IPC shares must have room for a single tensor that is larger; NCCL sends a part at once in any case.
        self._engine.packed_buffer_size_bytes = max(self._part, sum(value.nbytes for _, value in part))
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()  # vLLM reads the tensors in streams of its own
        self._watched(self._engine.send_weights)

    def _watched(self, work: Callable[[], Any]) -> Any:
        """``work`` in a thread: NCCL waits without end for an actor that the client knows to be dead."""
        outcome: Future[Any] = Future()
        device = _device()

        def run() -> None:
            try:
                if device.type == "cuda":  # each thread has a current one of its own
                    torch.cuda.set_device(device)
                outcome.set_result(work())
            except BaseException as error:
                outcome.set_exception(error)

        Thread(target=run, daemon=True).start()
        wait([outcome, self._client.failed], return_when=FIRST_COMPLETED)
        if self._client.failed.done():
            self._client.failed.result()
        return outcome.result()


def parts(weights: NamedWeights, size: int) -> Iterator[Part]:
    """``weights`` in lists of at most ``size`` bytes, or of one tensor that is larger."""
    part: Part = []
    taken = 0
    for name, value in weights:
        if part and taken + value.nbytes > size:
            yield part
            part, taken = [], 0
        part.append((name, value))
        taken += value.nbytes
    if part:
        yield part


def open_engine(kind: str, ranks: int, client: Any, source: Any) -> Any:
    """vLLM's engine on this side. nccl: in a group of this process and ``ranks`` others, each with a GPU of its own.
    ipc: for actors on this process's GPU."""
    import ray
    from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
    from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
    from vllm.utils.network_utils import get_open_port

    size: dict[str, Any] = {"packed": True, "packed_buffer_size_bytes": PART, "rank": 0}
    info: Any  # packed: receivers copy what they keep until the end, for which unpacked IPC would need all of it alive
    if kind == "ipc":
        info = IPCTrainerInitInfo(**size)
    else:
        info = NCCLTrainerInitInfo(ray.util.get_node_ip_address(), get_open_port(), 1 + ranks, **size)
    return WeightTransferTrainerFactory.trainer_init(info, client=client, source=source)


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def _part_source() -> Any:
    """A ``WeightSource`` of what its ``part`` is at the time."""
    set_environment()
    from vllm.distributed.weight_transfer import ParamMeta, WeightSource

    class PartSource(WeightSource):
        part: Part = []  # noqa: RUF012

        def metadata(self) -> list[ParamMeta]:
            return [ParamMeta(name, value.dtype, tuple(value.shape)) for name, value in self.part]

        def __iter__(self) -> Iterator[tuple[str, Tensor]]:
            return iter(self.part)

    return PartSource()
