"""Model folders on disk: find them, see that they are whole, and name their content. Loads no weights."""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from s2d_core.config.inputs import ModelConfig
from s2d_core.errors import CheckpointError

WANTED = ["*.json", "*.safetensors", "*.txt", "tokenizer.model", "*.jinja"]  # of a repository on the Hub


def locate_model(model: ModelConfig) -> Path:
    """The local folder of ``model``: itself, or the Hub's snapshot (downloaded once, safetensors only).

    Raises CheckpointError when it is missing, truncated, or holds no safetensors weights.
    """
    assert model.path is not None
    path = Path(model.path).expanduser()
    if not path.is_dir():
        if model.path.startswith((".", "/", "~")):
            raise _no_folder(model.path)
        path = _snapshot(model.path, model.revision, WANTED)
    check_model(path)
    return path


def read_config(model: ModelConfig) -> dict[str, Any]:
    """The model's ``config.json``, from its folder or the Hub, without its weights. Raises CheckpointError."""
    assert model.path is not None
    folder = Path(model.path).expanduser()
    if not folder.is_dir():
        if model.path.startswith((".", "/", "~")):
            raise _no_folder(model.path)
        folder = _snapshot(model.path, model.revision, ["config.json"])
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: config.json cannot be read ({error}); give a Hugging Face model folder"
        ) from error
    return dict(config)


def stop_tokens(folder: Path) -> list[int]:
    """The tokens at which the folder's generation settings, or else its configuration, end a completion."""
    for name in ("generation_config.json", "config.json"):
        file = folder / name
        found = json.loads(file.read_text()).get("eos_token_id") if file.is_file() else None
        if found is not None:
            return found if isinstance(found, list) else [found]
    return []


def check_model(path: Path) -> None:
    """Raises CheckpointError unless ``path`` holds config.json and every weight shard at its full size."""
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{path}: config.json is missing; give a Hugging Face model folder")
    index = path / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        shards = ["model.safetensors"]
    for shard in shards:
        _check_shard(path / shard)


def content_hash(path: Path) -> str:
    """SHA-256 over the folder's configuration, tokenizer and shard headers and sizes (not all of the weights).

    Two fine-tunes of one model differ in header metadata or not at all, so the first and last MiB of data count too.
    """
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.suffix == ".json" or file.name in ("merges.txt", "vocab.txt", "tokenizer.model"):
            digest.update(file.name.encode() + file.read_bytes())
        elif file.suffix == ".safetensors":
            size = file.stat().st_size
            with file.open("rb") as data:
                digest.update(f"{file.name}:{size}".encode() + data.read(1 << 20))
                data.seek(max(0, size - (1 << 20)))
                digest.update(data.read())
    return digest.hexdigest()


def _check_shard(file: Path) -> None:
    """A safetensors file says in its header how long it must be."""
    if not file.is_file():
        raise CheckpointError(f"{file}: weights are missing; only safetensors are read (no pickled .bin files)")
    size = file.stat().st_size
    try:
        with file.open("rb") as data:
            (header_size,) = struct.unpack("<Q", data.read(8))
            header = json.loads(data.read(header_size))
        expected = (
            8
            + header_size
            + max(
                (entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"),
                default=0,
            )
        )
    except (struct.error, ValueError, KeyError, AttributeError, MemoryError, OverflowError) as error:
        raise CheckpointError(f"{file}: not a safetensors file ({error}); copy it again") from error
    if size != expected:
        raise CheckpointError(f"{file}: truncated: {size} bytes of {expected}; copy it again")


def _no_folder(path: str) -> CheckpointError:
    return CheckpointError(f"models path = {path!r}: no such folder; give a Hugging Face model folder or Hub id")


def _snapshot(repository: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the Hub's, requests' and the cache's errors have no common base
        raise CheckpointError(
            f"models path = {repository!r}: neither a folder here nor to be had from the Hub ({error}); "
            "check the name, the revision and the network, or give a local folder"
        ) from error
