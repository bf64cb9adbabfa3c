"""Copies of a store's stages behind one URI (``file://``, ``s3://``, ``gs://``), for when the store's disk is lost.

    <mirror>/<name>-<fingerprint>/copy.json                 which folder is the newest copy, and its files' sizes
                                  finished-<random>/...     the stage with its result, without its checkpoints
                                  step_000040-<random>/...  or, while it is unfinished, with its newest checkpoint

``copy.json`` is written last and no two copies share a folder, so neither a copy that was cut short nor two that were
made at once are ever taken for a whole one. Credentials come from the environment, where pyarrow.fs looks for them.
"""

import logging
import shutil
import threading
import uuid
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath
from typing import Any

from pydantic import ValidationError

from s2d_core.config.base import Strict
from s2d_core.config.schema import Config
from s2d_core.errors import ResourceError
from s2d_core.spec import StageSpec
from s2d_core.store import CHECKPOINTS, Store, checkpoints

INDEX = "copy.json"
PARALLEL = 8  # files copied at once: one stream alone does not fill a connection
CHUNK_BYTES = 16 << 20  # of a file in memory; each is a request
LOOK_EVERY_S = 1.0  # for a new checkpoint
RETRY_S = 30  # of gs://
logger = logging.getLogger(__name__)


class Copy(Strict):
    """``copy.json``. files: name relative to ``folder`` → bytes."""

    folder: str
    files: dict[str, int]

    @property
    def finished(self) -> bool:
        return "manifest.json" in self.files


class Mirror:
    """Copies of the stages of ``store`` under ``uri``. Raises ResourceError, naming the mirror, where it fails."""

    def __init__(self, uri: str, store: Store) -> None:
        from pyarrow import fs

        self.uri, self.store = uri, store
        self.local = fs.LocalFileSystem()
        with self._explained("reached"):
            self.files, root = fs.FileSystem.from_uri(_impatient(uri))
        self.root = root.rstrip("/")

    def check(self) -> None:
        """Write, find and delete a small file."""
        folder = f"{self.root}/.check-{uuid.uuid4().hex}"
        with self._explained("written to"):
            self._write(f"{folder}/file", b"there")
            if self._listed(folder) != {"file": len(b"there")}:
                raise OSError("a file just written is not found there")
            self._delete(folder)

    def finished(self, specs: Collection[StageSpec]) -> set[str]:
        """Fingerprints of those of ``specs`` that have a whole copy of their result here."""
        with self._explained("read"), ThreadPoolExecutor(PARALLEL) as pool:
            copies = pool.map(self._newest, specs)
            return {spec.fingerprint for spec, copy in zip(specs, copies, strict=True) if copy and copy.finished}

    def send(self, spec: StageSpec, stopped: threading.Event | None = None) -> None:
        """Copy the stage as it is in the store, finished or as of its newest checkpoint, unless it is finished here.

        stopped: leaves off before the next file, and raises.
        """
        if spec.kind == "base":  # it names a folder of this machine, and takes no time to make again
            return
        with self._explained(f"given {spec.id}"):
            newest = self._newest(spec)
            if (newest and newest.finished) or not (paths := self.store.to_copy(spec)):
                return
            directory = self.store.dir(spec)
            names = [path.relative_to(directory).as_posix() for path in paths]
            steps = [name.split("/")[1] for name in names if name.startswith(f"{CHECKPOINTS}/")]
            folder = f"{steps[0] if steps else 'finished'}-{uuid.uuid4().hex[:8]}"
            target = self._path(spec, folder)
            self._copy({str(directory / name): f"{target}/{name}" for name in names}, self.local, self.files, stopped)
            sizes = self._listed(target)
            if missing := set(names) - sizes.keys():
                raise OSError(f"{len(missing)} files are gone again, {min(missing)} among them")
            made, newest = Copy(folder=folder, files=sizes), self._newest(spec)
            if newest and newest.finished:  # another machine was faster
                made = newest
            else:
                self._write(self._path(spec, INDEX), made.model_dump_json().encode())
            self._delete_others(spec, made)

    def fetch(self, spec: StageSpec, stopped: threading.Event | None = None) -> None:
        """Bring the stage's newest copy into the store, if that has less of it. The caller holds the stage's lock.

        A finished copy takes the place of an unfinished or damaged stage, an unfinished one that of none.
        stopped: as of ``send``.
        """
        directory = self.store.dir(spec)
        if self.store.result(spec) is not None:
            return
        with self._explained(f"asked for {spec.id}"):
            copy = self._newest(spec)
            if copy is None or (not copy.finished and checkpoints(directory / CHECKPOINTS)):
                return
            partial = directory.with_name(f".{directory.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            source = self._path(spec, copy.folder)
            names = {f"{source}/{name}": str(partial / name) for name in copy.files}
            self._copy(names, self.files, self.local, stopped)
            shutil.rmtree(directory, ignore_errors=True)
            partial.rename(directory)

    @contextmanager
    def following(self, spec: StageSpec) -> Iterator[None]:
        """Within: each new checkpoint of the stage is copied beside the training, as far as copying keeps up.

        A copy that fails is a warning: the next checkpoint has another try.
        """
        ended = threading.Event()
        thread = threading.Thread(target=self._follow, args=(spec, ended), name=f"mirror {spec.id}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _follow(self, spec: StageSpec, ended: threading.Event) -> None:
        folder = self.store.dir(spec) / CHECKPOINTS
        seen = checkpoints(folder)[-1:]
        while not ended.wait(LOOK_EVERY_S):
            if (newest := checkpoints(folder)[-1:]) in ([], seen):
                continue
            seen = newest
            try:
                self.send(spec, ended)
            except ResourceError as error:
                if not ended.is_set():
                    hint = "" if newest[0].exists() else "; raise training.checkpoints_kept or checkpoint_every"
                    logger.warning("%s%s", error, hint)

    def _newest(self, spec: StageSpec) -> Copy | None:
        """The newest copy, if all of it is there."""
        try:
            with self.files.open_input_stream(self._path(spec, INDEX)) as file:
                copy = Copy.model_validate_json(file.read())
        except (FileNotFoundError, ValidationError):  # none, or torn
            return None
        there = self._listed(self._path(spec, copy.folder))
        return copy if copy.files.items() <= there.items() else None

    def _delete_others(self, spec: StageSpec, kept: Copy) -> None:
        """Older copies, and what was left of those that were cut short; not a result that is being copied."""
        folders = {name.split("/")[0] for name in self._listed(self._path(spec)) if "/" in name}
        for folder in folders - {kept.folder}:
            if kept.finished or folder.startswith("step_"):
                self._delete(self._path(spec, folder))

    def _delete(self, folder: str) -> None:
        with suppress(FileNotFoundError):  # on gs:// the folder itself, after all that was in it
            self.files.delete_dir(folder)

    def _listed(self, path: str) -> dict[str, int]:
        """Name relative to the folder ``path`` → bytes, of each file in it."""
        from pyarrow import fs

        found = self.files.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
        return {each.path[len(path) + 1 :]: each.size for each in found if each.type == fs.FileType.File}

    def _copy(self, names: Mapping[str, str], source: Any, target: Any, stopped: threading.Event | None = None) -> None:
        """Copy files from one pyarrow file system to another. names: path there → path here."""
        from pyarrow import fs

        def copy(name: str) -> None:
            if stopped and stopped.is_set():
                raise OSError("stopped")
            fs.copy_files(name, names[name], source, target, chunk_size=CHUNK_BYTES)

        for path in names.values():
            _make_room(target, path)
        with ThreadPoolExecutor(PARALLEL) as pool:
            for _ in pool.map(copy, names):
                pass

    def _write(self, path: str, content: bytes) -> None:
        _make_room(self.files, path)
        with self.files.open_output_stream(path) as file:
            file.write(content)

    def _path(self, spec: StageSpec, *parts: str) -> str:
        return "/".join((self.root, spec.id, *parts))

    @contextmanager
    def _explained(self, cannot_be: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            raise ResourceError(
                f"mirror = {self.uri!r}: cannot be {cannot_be} ({' '.join(str(error).split())}); check the address and "
                "the credentials in the environment, or set mirror=null"
            ) from error


def open_mirror(config: Config) -> Mirror | None:
    """The mirror that ``config`` names, if any."""
    return Mirror(config.mirror, Store(config.store)) if config.mirror else None


def _make_room(files: Any, path: str) -> None:
    """Create the folder of ``path`` where there is such a thing: object stores have names only."""
    if files.type_name == "local":
        files.create_dir(str(PurePosixPath(path).parent))


def _impatient(uri: str) -> str:
    """``gs://`` is tried again for a quarter of an hour before it is an error, if its address says nothing else."""
    if not uri.startswith("gs://") or "retry_limit_seconds=" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}retry_limit_seconds={RETRY_S}"
