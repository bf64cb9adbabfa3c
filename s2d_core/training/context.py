"""What a running stage knows of its surroundings: its spec, its folder, its parents, and whom to tell of progress."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s2d_core.config.schema import RolloutsConfig, TrainingConfig, VerifierConfig
from s2d_core.errors import StageError
from s2d_core.spec import StageResult, StageSpec
from s2d_core.store import CANCEL, Store

# (metrics of the last step, folder of a checkpoint just written or None)
Report = Callable[[dict[str, float], Path | None], None]


def silent(metrics: dict[str, float], checkpoint: Path | None) -> None:
    """A report nobody listens to: the stage folder holds everything anyway."""


@dataclass
class Context:
    """spec, where it lives, how to execute it, and ``report``, called by every rank after each checkpoint.

    opened: what ends with the stage (engines, graders), not with its process, which may serve another stage next.
    """

    spec: StageSpec
    report: Report = silent
    store: Store = field(init=False)
    directory: Path = field(init=False)
    training: TrainingConfig = field(init=False)
    rollouts: RolloutsConfig = field(init=False)
    verifier: VerifierConfig = field(init=False)
    opened: ExitStack = field(init=False, default_factory=ExitStack)

    def __post_init__(self) -> None:
        execution = self.spec.execution
        self.store = Store(execution["store"])
        self.directory = self.store.dir(self.spec)
        self.training = TrainingConfig(**execution["training"])
        self.rollouts = RolloutsConfig(**execution["rollouts"])
        self.verifier = VerifierConfig(**execution["verifier"])

    @contextmanager
    def log(self) -> Iterator[None]:
        """Within: what this project logs also goes to ``stage.log``, which whoever launched the stage follows."""
        handler = logging.FileHandler(self.directory / "stage.log")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger = logging.getLogger("s2d_core")
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        try:
            yield
        except Exception:
            logger.exception("%s failed", self.spec.id)
            raise
        finally:
            logger.removeHandler(handler)
            handler.close()

    def parent(self, role: str) -> tuple[Path, StageResult]:
        return self.store.parent(self.spec.inputs[role])

    def model_path(self, role: str) -> Path:
        """Hugging Face folder of the parent in ``role``."""
        directory, result = self.parent(role)
        assert result.model is not None
        return directory / result.model

    def check_cancelled(self) -> None:
        """Raises StageError when whoever launched the stage has asked it to stop."""
        if (self.directory / CANCEL).exists():
            raise StageError(f"{self.spec.id}: cancelled; run it again to go on from its last checkpoint")

    def seed(self, *parts: Any) -> int:
        """A 63-bit seed for one use inside this stage; the same for the same parts, on every rank."""
        return stable_seed(self.spec.fingerprint, *parts)


def stable_seed(*parts: Any) -> int:
    """A 63-bit hash of ``parts``, the same in every process."""
    digest = hashlib.blake2b(":".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Stopwatch:
    """Seconds spent in each named part of a step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start


class MetricsLog:
    """``metrics.jsonl``: one JSON object a step. Lines beyond the checkpoint a stage resumes from are dropped."""

    def __init__(self, path: Path, done: int) -> None:
        self.path = path
        lines = path.read_text().splitlines(keepends=True)[:done] if path.exists() else []
        path.write_text("".join(lines))

    def append(self, metrics: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(metrics) + "\n")

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]
