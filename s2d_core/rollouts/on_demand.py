"""An engine that starts when it is first asked for rollouts: what is on disk already needs none."""

from collections.abc import Callable

from s2d_core.rollouts.types import Engine, NamedWeights, Request, Rollout, Sampling


class OnDemand:
    """``make()``'s engine, from the first call until ``close``."""

    def __init__(self, make: Callable[[], Engine]) -> None:
        self._make = make
        self._engine: Engine | None = None

    def generate(self, requests: list[Request], sampling: Sampling) -> list[list[Rollout]]:
        """See ``Engine.generate``."""
        return self._started().generate(requests, sampling)

    def load_weights(self, weights: NamedWeights) -> None:
        """See ``Engine.load_weights``."""
        self._started().load_weights(weights)

    def sleep(self) -> None:
        """See ``Engine.sleep``."""
        if self._engine is not None:
            self._engine.sleep()

    def close(self) -> None:
        """See ``Engine.close``; the engine's own memory is free too when nobody else holds it."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _started(self) -> Engine:
        if self._engine is None:
            self._engine = self._make()
        return self._engine
