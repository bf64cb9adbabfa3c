"""What a store can do without: found first, and told; removed only when asked to.

    stages        needed by no plan that is kept, by no young stage, and untouched for a number of days
    checkpoints   of finished stages, whose results no longer need them
    reports       untouched for as long, the latest aside
    leftovers     of a removal that was killed

Every removal begins with a rename, so that nothing half removed carries a name that is looked for. Links are neither
followed nor removed.
"""

import os
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from s2d_core.spec import StageSpec
from s2d_core.store import CHECKPOINTS, Store
from tasks.locks import exclusive

DAY_S = 86_400.0
REMOVED = ".removed"


class InUseError(Exception):
    """A run holds the stage, or has written to it since it was looked at."""


@dataclass(frozen=True)
class Removable:
    """A folder to remove. bytes: of the files in it. touched: when the newest of them was written, seconds since 1970.
    lock: held by whoever runs the stage."""

    path: Path
    kind: Literal["stage", "checkpoints", "report", "leftover"]
    bytes: int
    touched: float
    lock: Path | None = None

    @property
    def row(self) -> dict[str, Any]:
        days = (time.time() - self.touched) / DAY_S
        return {"what": self.kind, "MB": f"{self.bytes / 1e6:.1f}", "days": f"{days:.1f}", "path": str(self.path)}


def removable(store: Store, kept: Collection[str], days: float) -> list[Removable]:
    """What to remove when the stages with the fingerprints ``kept`` are needed and ``days`` make a folder old."""
    before, found = time.time() - days * DAY_S, []
    needed = _needed(store, kept, before)
    for directory in _folders(store, store.stages):
        lock = store.stages / f"{directory.name}.lock"
        if directory.name.endswith(REMOVED):
            found.append(_measure(directory, "leftover"))
        elif (spec := _spec(directory)) and spec.fingerprint not in needed:
            found.append(_measure(directory, "stage", lock))
        elif spec and store.read(directory) is not None:
            found += [_measure(each, "checkpoints", lock) for each in _folders(store, directory) if _is_spent(each)]
    latest = (store.root / "latest").resolve()
    for folder in _folders(store, store.root / "reports"):
        measured = _measure(folder, "leftover" if folder.name.endswith(REMOVED) else "report")
        if measured.kind == "leftover" or (measured.touched < before and folder.resolve() != latest):
            found.append(measured)
    return found


def would_remove(found: Sequence[Removable], store: Store) -> str:
    """What a dry run says."""
    return f"{_amount(found)} would be removed from {store.root}"


def remove(found: Sequence[Removable], store: Store) -> str:
    """Remove what was found, but for what a run is using or has written to since; says in words what was done."""
    left = []
    for item in found:
        try:
            with exclusive(item.lock, _in_use) if item.lock else nullcontext():
                _remove(item)
        except InUseError:
            left.append(item)
    in_use = f"; left, being in use: {', '.join(str(item.path) for item in left)}" if left else ""
    removed = [item for item in found if item not in left]
    return f"{_amount(removed)} removed from {store.root}{in_use}"


@task(name="prune", cache_policy=NO_CACHE, persist_result=False)
def prune_store(store: Store, kept: Collection[str], days: float, dry_run: bool) -> str:
    """Publish what the store can do without and, unless this is a dry run, remove it; says in words what was done."""
    found = removable(store, kept, days)
    said = would_remove(found, store)
    get_run_logger().info(said)
    create_table_artifact([item.row for item in found], key="prune", description=said)
    return said if dry_run else remove(found, store)


def _amount(items: Sequence[Removable]) -> str:
    return f"{len(items)} folders, {sum(item.bytes for item in items) / 1e6:.1f} MB,"


def _needed(store: Store, kept: Collection[str], before: float) -> set[str]:
    """Fingerprints of ``kept``, of stages touched since ``before``, and of whatever any of these was made from."""
    specs = {spec.fingerprint: spec for each in _folders(store, store.stages) if (spec := _spec(each))}
    young = [f for f, spec in specs.items() if _measure(store.dir(spec), "stage").touched >= before]
    needed: set[str] = set()
    waiting = [*kept, *young]
    while waiting:
        fingerprint = waiting.pop()
        if fingerprint not in needed:
            needed.add(fingerprint)
            waiting += specs[fingerprint].inputs.values() if fingerprint in specs else ()
    return needed


def _spec(directory: Path) -> StageSpec | None:
    """The spec of a stage directory; None for any other folder."""
    try:
        spec = StageSpec.model_validate_json((directory / "spec.json").read_bytes())
    except (OSError, ValueError):
        return None
    return spec if spec.id == directory.name else None


def _is_spent(folder: Path) -> bool:
    """Checkpoints of a finished stage, or what is left of them."""
    return folder.name == CHECKPOINTS or folder.name.endswith(REMOVED)


def _folders(store: Store, parent: Path) -> Iterator[Path]:
    """Folders in ``parent`` that are really there: no links, and nothing that a link put inside the store."""
    if parent.is_dir() and parent.resolve().is_relative_to(store.root.resolve()):
        yield from (each for each in sorted(parent.iterdir()) if each.is_dir() and not each.is_symlink())


def _measure(
    folder: Path, kind: Literal["stage", "checkpoints", "report", "leftover"], lock: Path | None = None
) -> Removable:
    files = [(Path(root) / name).lstat() for root, _, names in os.walk(folder) for name in names]
    touched = max((file.st_mtime for file in files), default=folder.lstat().st_mtime)
    return Removable(folder, kind, sum(file.st_size for file in files), touched, lock)


def _in_use() -> None:
    raise InUseError


def _remove(item: Removable) -> None:
    if item.path.is_symlink() or _measure(item.path, item.kind).touched > item.touched:
        raise InUseError
    doomed = item.path
    if not doomed.name.endswith(REMOVED):
        doomed = doomed.rename(doomed.with_name(f".{doomed.name}{REMOVED}"))
    shutil.rmtree(doomed)
