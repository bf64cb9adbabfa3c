"""Several engines behind one: prompts sharded over Ray actors, dead actors replaced, nothing lost.

Results do not depend on the number of actors or on which of them died: each request carries its own seed.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from s2d_core.errors import RolloutError
from s2d_core.rollouts.actor import RolloutActor, to_shared
from s2d_core.rollouts.transfer import Transfer
from s2d_core.rollouts.types import Engine, NamedWeights, Request, Rollout, Sampling

logger = logging.getLogger(__name__)


class Fleet:
    """An ``Engine`` over ``workers`` actors of the Ray cluster this process is attached to.

    timeout_s: a generation must answer within it, and an engine must have started. sync_timeout_s: the limit of a
    weight update, once started. max_restarts: how many dead actors are replaced over the fleet's life. cpus, gpus,
    resources (Ray's custom ones): what each actor reserves. transfer: how weights reach the actors' devices; None:
    through shared memory.
    """

    def __init__(
        self,
        factory: Callable[[], Engine],
        workers: int,
        *,
        timeout_s: float,
        sync_timeout_s: float,
        max_restarts: int,
        cpus: float = 1.0,
        gpus: float = 0.0,
        resources: dict[str, float] | None = None,
        transfer: Transfer | None = None,
    ) -> None:
        import ray

        self._ray, self._factory = ray, factory
        self._timeout_s, self._sync_timeout_s = timeout_s, sync_timeout_s
        self._restarts_left = max_restarts
        # Killed for memory, or its node lost with the answer: no subclasses of RayActorError, but no less dead.
        errors = ray.exceptions
        self._deaths = (errors.RayActorError, errors.OutOfMemoryError, errors.ObjectLostError)
        # Ray restarts and retries nothing by itself: an actor it restarted would sample from the folder's weights.
        self._actor_class = ray.remote(RolloutActor).options(
            num_cpus=cpus, num_gpus=gpus, resources=resources, max_restarts=0, max_task_retries=0
        )
        self._transfer = transfer
        self._weights: Any = None  # reference to the newest weights in Ray's object store
        # Actors that have the newest weights where only devices hold them; None: nothing was transferred.
        self._holders: set[int] | None = None
        self._started: list[Any] = [None] * workers  # references that are ready once an actor's engine is made
        self._actors: list[Any] = [None] * workers
        for worker in range(workers):
            self._start(worker)

    def generate(self, requests: list[Request], sampling: Sampling) -> list[list[Rollout]]:
        """Every ``workers``-th request to each actor; what a dead actor held goes to its replacement, or to the
        others where that lacks the weights.

        Raises RolloutError naming the worker that did not answer in time, or that died once too often.
        """
        results: list[list[Rollout]] = [[] for _ in requests]
        deadline = time.monotonic() + self._timeout_s
        pending: dict[Any, tuple[int, list[int]]] = {}  # worker, its share of the requests

        def issue(indices: list[int], workers: list[int]) -> None:
            for place, worker in enumerate(workers[: len(indices)]):
                share = indices[place :: len(workers)]
                pending[self._actors[worker].generate.remote([requests[i] for i in share], sampling)] = worker, share

        issue(list(range(len(requests))), self._able())
        while pending:
            left = deadline - time.monotonic()
            ready, _ = self._ray.wait(list(pending), num_returns=1, timeout=max(0.0, left))
            if not ready:
                names = ", ".join(self._name(worker) for worker in sorted({worker for worker, _ in pending.values()}))
                raise RolloutError(
                    f"{names}: no rollouts within rollouts.timeout_s = {self._timeout_s:g} s; raise it, or lower "
                    "the sampling's max_tokens"
                )
            worker, share = pending.pop(ready[0])
            try:
                groups = self._ray.get(ready[0])
            except self._deaths as error:
                issue(share, self._heirs(worker, error, deadline))
                continue
            for index, group in zip(share, groups, strict=True):
                results[index] = group
        return results

    def load_weights(self, weights: NamedWeights) -> None:
        """Put the weights in shared memory once and have every actor load them, or transfer them to the devices.

        Raises RolloutError naming the worker that does not answer within ``sync_timeout_s``, or that dies during a
        transfer.
        """
        if self._transfer is None:
            self._weights = self._ray.put(to_shared(weights))
        else:  # asked anew, for a transfer to an actor that died since the last one cannot be mended
            self._started = [actor.pid.remote() for actor in self._actors]
        deadline = time.monotonic() + self._timeout_s
        for worker in range(len(self._actors)):
            self._wait_for_start(worker, deadline)
        if self._transfer is not None:
            self._transfer.send(self._actors, weights, self._sync_timeout_s)
            self._holders = set(range(len(self._actors)))
            return
        pending = {actor.load_weights.remote(self._weights): worker for worker, actor in enumerate(self._actors)}
        deadline = time.monotonic() + self._sync_timeout_s
        for reference, worker in pending.items():
            self._synced(worker, reference, deadline)

    def sleep(self) -> None:
        """Nothing: the actors share their devices with nobody."""

    def close(self) -> None:
        """End the actors."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []
        if self._transfer is not None:
            self._transfer.close()

    def pids(self) -> list[int]:
        """Process ids of the actors, in order."""
        return self._ray.get([actor.pid.remote() for actor in self._actors])

    def _able(self) -> list[int]:
        """Workers that sample from the newest weights."""
        return list(range(len(self._actors))) if self._holders is None else sorted(self._holders)

    def _heirs(self, worker: int, error: Exception, deadline: float) -> list[int]:
        """Who takes over from a dead actor: its replacement. Where nothing is left of the weights but what the other
        actors have, those; the replacement gets the next weights."""
        if self._holders is None:
            self._replace(worker, error, deadline)
            return [worker]
        if worker in self._holders:  # what it had taken over already ends in another error
            self._holders.remove(worker)
            self._restart(worker, error)
        if not self._holders:
            raise RolloutError(f"{self._name(worker)} died, and no other is left that has the weights") from error
        return self._able()

    def _start(self, worker: int) -> None:
        self._actors[worker] = self._actor_class.remote(self._factory)
        self._started[worker] = self._actors[worker].pid.remote()

    def _wait_for_start(self, worker: int, deadline: float) -> None:
        """Starting an engine can take far longer than a weight update may, so it is waited for apart."""
        try:
            self._ray.get(self._started[worker], timeout=max(0.0, deadline - time.monotonic()))
        except self._ray.exceptions.GetTimeoutError as error:
            raise RolloutError(
                f"{self._name(worker)}: not started within rollouts.timeout_s = {self._timeout_s:g} s; "
                "are there processors free for it?"
            ) from error
        except self._deaths as error:
            self._replace(worker, error, deadline)

    def _synced(self, worker: int, reference: Any, deadline: float) -> None:
        """Wait for one weight update; a dead actor is replaced by one that has the weights."""
        try:
            self._ray.get(reference, timeout=max(0.0, deadline - time.monotonic()))
        except self._ray.exceptions.GetTimeoutError as error:
            raise RolloutError(
                f"{self._name(worker)}: no weights loaded within rollouts.sync_timeout_s = {self._sync_timeout_s:g} s; "
                "is its node alive? If the model is large, raise the limit"
            ) from error
        except self._deaths as error:
            self._replace(worker, error, time.monotonic() + self._timeout_s)

    def _replace(self, worker: int, error: Exception, deadline: float) -> None:
        """Put an actor with the current weights in the dead one's place, if they can be had."""
        self._restart(worker, error)
        self._wait_for_start(worker, deadline)
        if self._weights is not None:
            reference = self._actors[worker].load_weights.remote(self._weights)
            self._synced(worker, reference, time.monotonic() + self._sync_timeout_s)

    def _restart(self, worker: int, error: Exception) -> None:
        """Put a new actor in the dead one's place."""
        reason = str(error).strip().splitlines()[-1]
        if getattr(error, "actor_init_failed", False):  # so would every other
            raise RolloutError(f"{self._name(worker)}: its engine cannot be made: {reason}") from error
        if self._restarts_left == 0:
            raise RolloutError(f"{self._name(worker)} died and rollouts.max_restarts are used up: {reason}") from error
        self._restarts_left -= 1
        logger.warning("%s died; replaced, %d restarts left: %s", self._name(worker), self._restarts_left, reason)
        self._ray.kill(self._actors[worker])  # unreachable is not yet ended, and its resources are needed
        self._start(worker)

    def _name(self, worker: int) -> str:
        return f"rollout worker {worker}"
