"""What can be known to go wrong before training starts: models, tokenizers, data, answers, disk and memory.

Returns the content hashes of external inputs, which enter the fingerprints. The cluster is checked on launching.
"""

import hashlib
import shutil
from pathlib import Path

import psutil

from s2d_core.config.inputs import FilesConfig, ModelConfig
from s2d_core.config.schema import Config
from s2d_core.data import guard
from s2d_core.errors import DataError, ResourceError
from s2d_core.rewards.verifier import Verifier

GIB = 1 << 30


def preflight(config: Config) -> dict[str, str]:
    """Check ``config``'s inputs and this machine; returns content hashes of ``data``, ``teacher`` and ``student``.

    Raises CheckpointError, DataError or ResourceError with one message that says what to do.
    """
    sources, paths = _check_inputs(config)
    _check_machine(config, paths)
    return sources


def source_hashes(config: Config) -> dict[str, str]:
    """What ``preflight`` returns, of a machine on which nothing is going to be trained. Raises as it does."""
    return _check_inputs(config)[0]


def _check_inputs(config: Config) -> tuple[dict[str, str], dict[str, Path]]:
    """Content hashes of external inputs, and the folders of the models among them."""
    sources: dict[str, str] = {}
    paths: dict[str, Path] = {}
    for role in ("teacher", "student"):
        model: ModelConfig = getattr(config.models, role)
        if model.scratch is None:
            from s2d_core.training.model_files import content_hash, locate_model

            paths[role] = locate_model(model)
            sources[role] = content_hash(paths[role])
    if len(paths) == 2:
        _check_tokenizers(paths)
    if config.data.files is not None:
        sources["data"] = _check_data(config, paths)
    return sources, paths


def _check_tokenizers(paths: dict[str, Path]) -> None:
    from transformers import AutoConfig, AutoTokenizer

    from s2d_core.data.tokens import check_tokenizers

    tokenizers = {role: AutoTokenizer.from_pretrained(path) for role, path in paths.items()}
    rows = {role: AutoConfig.from_pretrained(path).vocab_size for role, path in paths.items()}
    check_tokenizers(
        tokenizers["teacher"], tokenizers["student"], teacher_rows=rows["teacher"], student_rows=rows["student"]
    )


def _check_data(config: Config, paths: dict[str, Path]) -> str:
    """Load and split the files once; the hash of their content."""
    from s2d_core.stages.data import make_splits

    files = config.data.files
    assert files is not None
    splits = make_splits(config.data, seed=0, chat_tokenizer=str(paths["student"]) if files.chat else None)
    settings = config.verifier
    with Verifier(settings.workers, settings.timeout_s, settings.memory_mb) as verifier:
        problems = [problem for split in splits.problems.values() for problem in split]
        if len(bad := verifier.check_answers(problems)) == sum(p.answer is not None for p in problems):
            raise DataError(
                f"{files.train}: math-verify recognises none of the answers (first: {bad[:3]}); check "
                "data.files.answer_field and data.files.answer_pattern"
            )
    return _hash_files(files)


def _hash_files(files: FilesConfig) -> str:
    digest = hashlib.sha256(f"guard {guard.VERSION}".encode())
    for name in filter(None, (files.train, files.test)):
        with Path(name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _check_machine(config: Config, paths: dict[str, Path]) -> None:
    """Room for the run's checkpoints on disk and for one stage's model, teacher, gradients and optimiser in memory.

    Each stage keeps weights, and checkpoints of weights and two moments, in 4 bytes a parameter.
    """
    sizes = {role: _weight_bytes(config, role, paths.get(role)) for role in ("teacher", "student")}
    kept = 1 + 3 * config.training.checkpoints_kept
    stages = sum(len(arm.stages) for arm in config.arms.values()) + 2
    disk = stages * kept * max(sizes.values())
    root = Path(config.store).absolute()
    while not root.exists():
        root = root.parent
    free = shutil.disk_usage(root).free
    if disk + GIB // 4 > free:
        raise ResourceError(
            f"store = {config.store!r}: the run needs about {disk / GIB + 0.25:.1f} GiB of disk, {free / GIB:.1f} GiB "
            "are free; free some, name another store, or lower training.checkpoints_kept"
        )
    if config.training.gpus_per_worker or config.launch.address not in ("local",):
        return  # the memory that counts is not this process's
    memory = 4 * max(sizes.values()) + 2 * sum(sizes.values())
    available = psutil.virtual_memory().available
    if memory + GIB // 2 > available:
        raise ResourceError(
            f"a stage needs about {memory / GIB + 0.5:.1f} GiB of memory (weights, gradients, optimiser, teacher, "
            f"engine), {available / GIB:.1f} GiB are available; use smaller models, or a cluster (launch.address)"
        )


def _weight_bytes(config: Config, role: str, path: Path | None) -> int:
    if path is not None:
        return sum(file.stat().st_size for file in path.glob("*.safetensors"))
    shape = getattr(config.models, role).scratch
    attention = 4 * shape.hidden_size * shape.heads * shape.head_dim
    return 4 * shape.layers * (attention + 3 * shape.hidden_size * shape.intermediate_size)
