"""Several engines behind one: prompts sharded over Ray actors, dead actors replaced, nothing lost.

Results do not depend on the number of actors or on which of them died: each request carries its own seed.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from s2d_core.errors import RolloutError
from s2d_core.rollouts.actor import RolloutActor, to_shared
from s2d_core.rollouts.types import Engine, NamedWeights, Request, Rollout, Sampling

logger = logging.getLogger(__name__)


class Fleet:
    """An ``Engine`` over ``workers`` actors of the Ray cluster this process is attached to.

    timeout_s: a generation must answer within it. sync_timeout_s: likewise a weight update (and an actor's start).
    max_restarts: how many dead actors are replaced over the fleet's life. cpus, gpus: what each actor reserves.
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
    ) -> None:
        import ray

        self._ray, self._factory = ray, factory
        self._timeout_s, self._sync_timeout_s = timeout_s, sync_timeout_s
        self._restarts_left = max_restarts
        self._actor_class = ray.remote(RolloutActor).options(num_cpus=cpus, num_gpus=gpus, max_restarts=0)
        self._weights: Any = None  # reference to the newest weights in Ray's object store
        self._actors = [self._start(index) for index in range(workers)]

    def generate(self, requests: list[Request], sampling: Sampling) -> list[list[Rollout]]:
        """Every ``workers``-th request to each actor; what a dead actor held goes to its replacement.

        Raises RolloutError naming the worker that did not answer in time, or that died once too often.
        """
        count = len(self._actors)
        results: list[list[Rollout]] = [[] for _ in requests]
        shares = {w: list(range(w, len(requests), count)) for w in range(count) if w < len(requests)}
        deadline = time.monotonic() + self._timeout_s

        def issue(worker: int) -> Any:
            return self._actors[worker].generate.remote([requests[i] for i in shares[worker]], sampling)

        pending = {issue(worker): worker for worker in shares}
        while pending:
            left = deadline - time.monotonic()
            ready, _ = self._ray.wait(list(pending), num_returns=1, timeout=max(0.0, left))
            if not ready:
                names = ", ".join(self._name(worker) for worker in sorted(pending.values()))
                raise RolloutError(
                    f"{names}: no rollouts within rollouts.timeout_s = {self._timeout_s:g} s; raise it, or lower "
                    "the sampling's max_tokens"
                )
            worker = pending.pop(ready[0])
            try:
                groups = self._ray.get(ready[0])
            except self._ray.exceptions.RayActorError as error:
                self._replace(worker, error)
                pending[issue(worker)] = worker
                continue
            for index, group in zip(shares[worker], groups, strict=True):
                results[index] = group
        return results

    def load_weights(self, weights: NamedWeights) -> None:
        """Put the weights in shared memory once and have every actor load them.

        Raises RolloutError naming the worker that does not answer within ``sync_timeout_s``.
        """
        self._weights = self._ray.put(to_shared(weights))
        pending = {actor.load_weights.remote(self._weights): worker for worker, actor in enumerate(self._actors)}
        deadline = time.monotonic() + self._sync_timeout_s
        for reference, worker in pending.items():
            self._synced(worker, reference, deadline)

    def close(self) -> None:
        """End the actors."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []

    def pids(self) -> list[int]:
        """Process ids of the actors, in order."""
        return self._ray.get([actor.pid.remote() for actor in self._actors])

    def _start(self, worker: int) -> Any:
        actor: Any = self._actor_class.remote(self._factory)
        if self._weights is not None:
            self._synced(worker, actor.load_weights.remote(self._weights), time.monotonic() + self._sync_timeout_s)
        return actor

    def _synced(self, worker: int, reference: Any, deadline: float) -> None:
        """Wait for one weight update; a dead actor is replaced by one that has the weights."""
        try:
            self._ray.get(reference, timeout=max(0.0, deadline - time.monotonic()))
        except self._ray.exceptions.GetTimeoutError as error:
            raise RolloutError(
                f"{self._name(worker)}: no weights loaded within rollouts.sync_timeout_s = {self._sync_timeout_s:g} s; "
                "is its node alive, and are there processors free for it?"
            ) from error
        except self._ray.exceptions.RayActorError as error:
            self._replace(worker, error)

    def _replace(self, worker: int, error: BaseException) -> None:
        if self._restarts_left == 0:
            raise RolloutError(
                f"{self._name(worker)} died and rollouts.max_restarts are used up: {str(error).splitlines()[0]}"
            ) from error
        self._restarts_left -= 1
        logger.warning("%s died; replaced, %d restarts left", self._name(worker), self._restarts_left)
        self._actors[worker] = self._start(worker)

    def _name(self, worker: int) -> str:
        return f"rollout worker {worker}"
