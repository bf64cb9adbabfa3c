"""Who samples for which rank: each its own engine or, with rollout workers, rank 0's fleet for all of them."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch.distributed as dist

from s2d_core.errors import RolloutError, S2DError
from s2d_core.rollouts import make_engine
from s2d_core.rollouts.files import generate_stored
from s2d_core.rollouts.on_demand import OnDemand
from s2d_core.rollouts.types import Engine, NamedWeights, Request, Rollout, Sampling
from s2d_core.training import parallel
from s2d_core.training.context import Context

Groups = list[list[Rollout]]
Work = Callable[[Engine, list[Request]], Groups]
# Rank 0 answers within its fleet's own limits, and its death ends the connection: how long a stage may take is for its
# launcher to say.
PATIENCE = timedelta(days=7)


def open_engine(context: Context, role: str, *, eos_token_id: int, max_length: int, at_once: bool = True) -> Engine:
    """An engine for the model in ``role``, which every rank opens with the same ``max_length``. Collective.

    at_once: start it now, and not when it is first asked for something.
    """
    make: Callable[[], Engine] = partial(
        make_engine,
        context.model_path(role),
        context.rollouts.model_copy(update={"engine": context.spec.settings["engine"]}),
        eos_token_id=eos_token_id,
        dtype=context.spec.settings["dtype"],
        max_length=max_length,
    )
    if not at_once:
        make = partial(OnDemand, make)
    return SharedEngine(make) if context.rollouts.workers and parallel.world_size() > 1 else make()


def generate_all(
    engine: Engine, requests: list[Request], sampling: Sampling, directory: Path, shard: int
) -> list[list[Rollout]]:
    """As ``generate_stored``; of a shared engine on rank 0 for all ranks, as one may lack more shards than another."""

    def work(engine: Engine, requests: list[Request]) -> Groups:
        return generate_stored(engine, requests, sampling, directory, shard)

    return engine.ask(work, requests) if isinstance(engine, SharedEngine) else work(engine, requests)


class SharedEngine:
    """An engine that rank 0 holds and all ranks use, each call by all of them at once.

    The engine sees requests as one rank would ask for them, ranks taking turns, so how many ranks there are changes
    nothing. What it raises is raised on rank 0, and as a RolloutError on the others. Collectives are of a process group
    of their own: sampling may go on in a thread beside the training's.
    """

    def __init__(self, make: Callable[[], Engine]) -> None:
        """make: called on rank 0 alone."""
        self._group = dist.new_group(backend="gloo", timeout=PATIENCE)
        self._engine: Any = None  # on rank 0 an Engine

        def start() -> list[None]:
            self._engine = make()
            return [None] * parallel.world_size()

        self._from_first(start)

    def generate(self, requests: list[Request], sampling: Sampling) -> Groups:
        """See ``Engine.generate``; this rank's rollouts."""
        return self.ask(lambda engine, of_all: engine.generate(of_all, sampling), requests)

    def ask(self, work: Work, requests: list[Request]) -> Groups:
        """What ``work``, done on rank 0 for the requests of all ranks, makes of this rank's."""
        shares: list[Any] | None = [None] * parallel.world_size() if parallel.rank() == 0 else None
        dist.gather_object(requests, shares, dst=0, group=self._group)

        def answer() -> list[Groups]:
            assert shares is not None
            turns = zip_longest(*shares)
            dealt = [(rank, each) for turn in turns for rank, each in enumerate(turn) if each is not None]
            found: list[Groups] = [[] for _ in shares]
            groups = work(self._engine, [request for _, request in dealt])
            for (rank, _), group in zip(dealt, groups, strict=True):
                found[rank].append(group)
            return found

        mine: Groups = self._from_first(answer)
        return mine

    def load_weights(self, weights: NamedWeights) -> None:
        """See ``Engine.load_weights``. Sharded weights are gathered as they are taken, so every rank takes all."""
        if parallel.rank() > 0:
            for _ in weights:
                pass

        def load() -> list[None]:
            taken = iter(weights)
            try:
                self._engine.load_weights(taken)
            finally:
                for _ in taken:  # an engine that fails on the way leaves some, and the others are gathering them
                    pass
            return [None] * parallel.world_size()

        self._from_first(load)

    def sleep(self) -> None:
        """Nothing: a fleet shares its devices with nobody."""

    def close(self) -> None:
        """End the engine. Not collective: ranks may get here by an error."""
        if self._engine is not None:
            self._engine.close()

    def _from_first(self, work: Callable[[], list[Any]]) -> Any:
        """This rank's item of what ``work`` returns on rank 0, one for each rank; or the error it raised there."""
        answers: list[tuple[Any, str | None]] | None = None
        raised = None
        if parallel.rank() == 0:
            try:
                answers = [(answer, None) for answer in work()]
            except Exception as error:
                raised = error
                answers = [(None, _message(error))] * parallel.world_size()
        mine: list[Any] = [None]
        dist.scatter_object_list(mine, answers, src=0, group=self._group)
        if raised is not None:
            raise raised
        answer, message = mine[0]
        if message is not None:
            raise RolloutError(message)
        return answer


def _message(error: Exception) -> str:
    return str(error) if isinstance(error, S2DError) else f"{type(error).__name__}: {error}"
