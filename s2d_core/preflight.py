"""What can be known to go wrong before training starts: models, tokenizers, data, answers, disk, memory and the mirror.

Returns the content hashes of external inputs, which enter the fingerprints. The cluster is checked on launching.
"""

import hashlib
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import psutil

from s2d_core.config.inputs import FilesConfig, ModelConfig
from s2d_core.config.schema import Config
from s2d_core.data import guard
from s2d_core.data.dataset import content_hash
from s2d_core.data.loaders import load_problems
from s2d_core.data.problems import Problem
from s2d_core.data.tokens import check_chat, check_tokenizers, encode_prompts
from s2d_core.errors import DataError, ResourceError
from s2d_core.mirror import open_mirror
from s2d_core.plan import Plan, plan
from s2d_core.resources.estimate import check_fits, estimates, remedy
from s2d_core.resources.jobs import base_geometry
from s2d_core.resources.memory import Precision
from s2d_core.rewards.verifier import Verifier
from s2d_core.training.model_files import content_hash as model_hash
from s2d_core.training.model_files import locate_model, stop_tokens
from s2d_core.workers import COMPUTING, stage_workers

GIB = 1 << 30
logger = logging.getLogger(__name__)


def preflight(config: Config, arms: Sequence[str] | None = None) -> dict[str, str]:
    """Check ``config``'s inputs and this machine; returns content hashes of ``data``, ``teacher`` and ``student``.

    arms: those whose stages must fit, which is asked before any weights are fetched; None: the recipe's default ones.
    Raises CheckpointError, DataError or ResourceError with one message that says what to do.
    """
    planned = plan(config, arms, seeds=[0]) if arms or arms is None else Plan()
    check_fits(config, planned)
    if mirror := open_mirror(config):
        mirror.check()
    sources, _ = _check_inputs(config)
    _check_machine(config, planned)
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
            paths[role] = locate_model(model)
            sources[role] = model_hash(paths[role])
    if len(paths) == 2:
        _check_tokenizers(paths, config.data.files)
    if config.data.files is not None:
        sources["data"] = _check_data(config, paths)
    return sources, paths


def _check_tokenizers(paths: dict[str, Path], files: FilesConfig | None) -> None:
    from transformers import AutoTokenizer

    tokenizers = {role: AutoTokenizer.from_pretrained(path) for role, path in paths.items()}
    rows = {role: base_geometry(ModelConfig(path=str(path))).vocab for role, path in paths.items()}
    tokens = check_tokenizers(
        tokenizers["teacher"],
        tokenizers["student"],
        teacher_rows=rows["teacher"],
        student_rows=rows["student"],
        stops={role: stop_tokens(path) for role, path in paths.items()},
        chat=files is not None and files.chat,
    )
    if rows["teacher"] != rows["student"]:
        logger.info(
            "%d tokens; the teacher has %d vocabulary rows and the student %d: both are cut to %d, the rest is padding",
            tokens,
            rows["teacher"],
            rows["student"],
            min(rows.values()),
        )
    if files is not None and files.chat and tokenizers["student"].chat_template:
        check_chat(tokenizers["student"], files.enable_thinking)


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
                f"{files.source(files.train).path}: math-verify recognises none of the answers (first: {bad[:3]}); "
                "check data.files.answer_field and data.files.answer_pattern"
            )
    if files.max_prompt_tokens and "student" in paths:
        _check_lengths(files, problems, paths["student"])
    return _hash_sources(files)


def _hash_sources(files: FilesConfig) -> str:
    """Of files their bytes; of data sets their rows as they are read."""
    digest = hashlib.sha256(f"guard {guard.VERSION}".encode())
    for source in (files.source(files.train), *files.test_sources.values()):
        path = Path(source.path)
        if path.is_file():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        else:
            plain = files.model_copy(update={"chat": False, "template": "{prompt}"})
            digest.update(content_hash(load_problems(plain, source)).encode())
    return digest.hexdigest()


def _check_lengths(files: FilesConfig, problems: list[Problem], path: Path) -> None:
    from transformers import AutoTokenizer

    encode_prompts(AutoTokenizer.from_pretrained(path), problems, files.max_prompt_tokens)


def _check_machine(config: Config, planned: Plan) -> None:
    """Room for the run's checkpoints on disk and, where stages run on this machine's processors, in memory.

    Each stage keeps weights, and checkpoints of weights and two moments.
    """
    sizes = [base_geometry(getattr(config.models, role)).parameters for role in ("teacher", "student")]
    kept = (1 + 3 * config.training.checkpoints_kept) * Precision.of(config.training.dtype).weights
    stages = sum(len(arm.stages) for arm in config.arms.values()) + 2
    disk = stages * kept * max(sizes)
    root = Path(config.store).absolute()
    while not root.exists():
        root = root.parent
    free = shutil.disk_usage(root).free
    if disk + GIB // 4 > free:
        raise ResourceError(
            f"store = {config.store!r}: the run needs about {disk / GIB + 0.25:.1f} GiB of disk, {free / GIB:.1f} GiB "
            "are free; free some, name another store, or lower training.checkpoints_kept"
        )
    on_gpus = any(stage_workers(config, stage)[0].gpus_per_worker for stage in COMPUTING)
    if config.hardware or on_gpus or config.launch.address != "local":
        return  # the memory that counts is not this process's
    needs = estimates(config, planned)
    largest = max(needs, key=lambda fingerprint: needs[fingerprint].memory, default=None)
    available = psutil.virtual_memory().available
    if largest and config.training.workers * needs[largest].memory + GIB // 2 > available:
        raise ResourceError(
            f"{planned.specs[largest].name} needs {needs[largest]}, in each of {config.training.workers} workers; "
            f"{available / GIB:.1f} GiB are available. {remedy(needs[largest])}, use smaller models, or a cluster "
            "(launch.address)"
        )
