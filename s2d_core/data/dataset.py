"""The splits on disk: a Hugging Face ``DatasetDict`` and a manifest of counts and content hashes.

The manifest is what tells a whole dataset from a damaged one. Knows nothing of where problems come from.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from s2d_core.data.problems import Problem
from s2d_core.errors import DataError

MANIFEST = "manifest.json"


def content_hash(problems: Iterable[Problem]) -> str:
    """SHA-256 over the problems' canonical JSON, in order."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps(asdict(problem), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def write_dataset(path: Path | str, splits: Mapping[str, Sequence[Problem]]) -> dict[str, Any]:
    """Write ``splits`` so that ``datasets.load_from_disk(path)`` opens them; return the manifest.

    The manifest holds ``splits`` (name → ``count``, ``sha256``) and ``sha256`` over all of it. It is written
    last, into a folder that takes its name only when whole. An existing dataset at ``path`` is replaced.
    """
    from datasets import Dataset, DatasetDict, Features, Value

    path = Path(path)
    features = Features(
        {"id": Value("string"), "prompt": Value("string"), "answer": Value("string"), "level": Value("int64")}
    )
    entries = {name: {"count": len(rows), "sha256": content_hash(rows)} for name, rows in splits.items()}
    total = hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()
    manifest = {"splits": entries, "sha256": total}

    unfinished = path.with_name(path.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    with _quiet():
        DatasetDict(
            {
                name: Dataset.from_dict(
                    {field: [getattr(row, field) for row in rows] for field in features}, features=features
                )
                for name, rows in splits.items()
                if rows  # ``datasets`` cannot open an empty one again; the manifest remembers it
            }
        ).save_to_disk(str(unfinished))
    (unfinished / MANIFEST).write_text(json.dumps(manifest, indent=2))
    shutil.rmtree(path, ignore_errors=True)
    unfinished.rename(path)
    return manifest


def read_manifest(path: Path | str) -> dict[str, Any]:
    """The manifest of a written dataset. Raises DataError when there is none or it is damaged."""
    file = Path(path) / MANIFEST
    try:
        manifest = json.loads(file.read_text())
        return {"splits": manifest["splits"], "sha256": manifest["sha256"]}
    except FileNotFoundError as error:
        raise DataError(f"{path}: no dataset here ({MANIFEST} is missing); run the data stage again") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: damaged manifest ({error}); delete {path} and run the data stage again") from error


def read_split(path: Path | str, split: str) -> list[Problem]:
    """The problems of one split, in the order written. Raises DataError unless all are there and unchanged."""
    from datasets import Dataset

    entries = read_manifest(path)["splits"]
    if split not in entries:
        raise DataError(f"{path}: no split {split!r}; there are {', '.join(entries)}")
    if entries[split]["count"] == 0:
        return []
    try:
        rows = Dataset.load_from_disk(str(Path(path) / split), keep_in_memory=True).to_list()
        problems = [Problem(**row) for row in rows]
    except Exception as error:  # each of the file's layers has its own errors for a damaged file
        raise DataError(
            f"{path}: split {split!r} cannot be read ({type(error).__name__}: {error}); "
            "delete the dataset and run the data stage again"
        ) from error
    if len(problems) != entries[split]["count"] or content_hash(problems) != entries[split]["sha256"]:
        raise DataError(
            f"{path}: split {split!r} holds {len(problems)} problems and {entries[split]['count']} were written, "
            "or their content has changed; delete the dataset and run the data stage again"
        )
    return problems


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars from ``datasets``: the run has its own."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
