"""Stage directories: the truth about what is finished. Prefect, Ray and MLflow only mirror them.

    <root>/stages/<name>-<fingerprint>/   spec.json, metrics.jsonl, ledger.jsonl, checkpoints/, model/, manifest.json

A stage is finished when its manifest is there, of this format, and every file it lists has its full size.
The manifest is written last, by write-flush-rename, so a killed stage is never taken for a finished one.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from s2d_core.errors import CheckpointError
from s2d_core.spec import StageResult, StageSpec

FORMAT = 1
DISTANCE = "distance.json"  # what an evaluation leaves besides its samples: distance to the teacher by position
STARTED = "started"  # a file of this name in its directory says that a stage has what it needs and runs
ROLLOUTS = "rollouts"  # folder of sampled sequences: a stage's own, and beside the stages those that stages share
AHEAD = "ahead"  # folder of the batches that were sampled ahead of a checkpoint
CHECKPOINTS = "checkpoints"  # folder of a stage's own, which its result does not need
CANCEL = "cancel"  # a file of this name in its directory asks a running stage to stop
RESULTS = ("model", "dataset", "dropped.jsonl", "samples.jsonl", "metrics.jsonl", DISTANCE)  # sizes in the manifest
RECORDS = ("spec.json", "ledger.jsonl", "stage.log")


class Store:
    """Results by fingerprint, under one folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()
        self.stages = self.root / "stages"

    def dir(self, spec: StageSpec) -> Path:
        """The stage's directory (not created)."""
        return self.stages / spec.id

    def find(self, fingerprint: str) -> Path:
        """Directory of the stage with this fingerprint. Raises CheckpointError when there is none."""
        found = next(self.stages.glob(f"*-{fingerprint}"), None)
        if found is None:
            raise CheckpointError(f"no stage {fingerprint} under {self.stages}: run the stage that makes it first")
        return found

    def result(self, spec: StageSpec) -> StageResult | None:
        """The finished result, or None when the stage must run (again)."""
        return self.read(self.dir(spec))

    def parent(self, fingerprint: str) -> tuple[Path, StageResult]:
        """Directory and result of a finished parent. Raises CheckpointError when it is missing or damaged."""
        directory = self.find(fingerprint)
        result = self.read(directory)
        if result is None:
            raise CheckpointError(f"stage {directory.name} is unfinished or damaged; delete {directory} and run again")
        return directory, result

    def read(self, directory: Path) -> StageResult | None:
        """The result in ``directory`` if its manifest is there and its files are whole.

        Raises CheckpointError for a manifest written by another version of the store.
        """
        path = directory / "manifest.json"
        try:
            manifest = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):  # torn, as no version writes it: the stage runs again
            return None
        advice = "use another store folder (store=...) or the version that wrote it"
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            found = manifest.get("format") if isinstance(manifest, dict) else None
            raise CheckpointError(f"{path}: written by store format {found!r}, this version reads {FORMAT}; {advice}")
        try:
            result = StageResult.model_validate(manifest.get("result"))
        except ValidationError as error:
            detail = error.errors()[0]
            key = ".".join(map(str, detail["loc"])) or "result"
            raise CheckpointError(
                f"{path}: cannot be read by this version ({key}: {detail['msg']}); {advice}"
            ) from error
        whole = all(_size(directory / name) == size for name, size in result.sizes.items())
        return result if whole else None

    def begin(self, spec: StageSpec) -> Path:
        """Create the stage's directory and write its spec. It has not started: it may have to wait for a cluster."""
        directory = self.dir(spec)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / STARTED).unlink(missing_ok=True)
        write_json(directory / "spec.json", spec.model_dump(mode="json"))
        return directory

    def start(self, spec: StageSpec) -> None:
        """``begin``, and the work begins now."""
        (self.begin(spec) / STARTED).touch()

    def started(self, spec: StageSpec) -> bool:
        """Whether the work has begun since the stage was last launched."""
        return (self.dir(spec) / STARTED).exists()

    def commit(self, spec: StageSpec, result: StageResult) -> None:
        """Publish ``result``; from here on the stage is finished."""
        directory = self.dir(spec)
        sizes = {str(path.relative_to(directory)): path.stat().st_size for path in _files(directory, *RESULTS)}
        result = result.model_copy(update={"sizes": sizes})
        write_json(directory / "manifest.json", {"format": FORMAT, "result": result.model_dump(mode="json")})

    def to_copy(self, spec: StageSpec) -> list[Path]:
        """Files that say all of a finished stage, or that an unfinished one needs to go on from its newest checkpoint.

        None of a stage that is neither.
        """
        directory = self.dir(spec)
        if self.result(spec) is not None:
            return _files(directory, *RESULTS, *RECORDS, "manifest.json")
        newest = checkpoints(directory / CHECKPOINTS)[-1:]
        files = _files(directory, *newest, "metrics.jsonl", *RECORDS, ROLLOUTS, AHEAD)
        return files if newest and newest[0].exists() else []  # a newer one may have taken its place meanwhile


def checkpoints(directory: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(directory.glob("step_*"))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` so that readers see the old file or the whole new one, also after a power cut."""
    with whole(path) as partial:
        partial.write_text(json.dumps(value, indent=1, sort_keys=True))


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to; when its writer is done, the file is moved to ``path``, also after a power cut whole."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    yield partial
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.rename(path)


def _files(directory: Path, *names: str | Path) -> list[Path]:
    """Files of these names, and those in folders of these names, under ``directory``; sorted."""
    paths = [path for name in names for path in (directory / name, *(directory / name).rglob("*"))]
    return sorted(path for path in paths if path.is_file())


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
