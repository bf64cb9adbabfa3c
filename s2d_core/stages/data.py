"""Stage kind ``data``: the problems of one seed, split and written as a ``datasets`` dataset."""

import time
from collections.abc import Mapping

from s2d_core.config.schema import DataConfig
from s2d_core.data.dataset import write_dataset
from s2d_core.data.problems import Problem
from s2d_core.spec import StageResult
from s2d_core.training import parallel
from s2d_core.training.context import Context


def write_data(context: Context) -> StageResult:
    """Write ``dataset/``: five splits that do not overlap. Raises DataError when there are too few problems."""
    began = time.perf_counter()
    settings = dict(context.spec.settings)
    settings.pop("source", None)
    tokenizer = settings.pop("chat_tokenizer", None)
    splits, dropped = make_splits(DataConfig.model_validate(settings), context.spec.seed, tokenizer)
    if parallel.rank() == 0:
        write_dataset(context.directory / "dataset", splits)
    return StageResult(
        fingerprint=context.spec.fingerprint,
        name=context.spec.name,
        kind="data",
        metrics={f"problems_{name}": float(len(problems)) for name, problems in splits.items()} | dropped,
        seconds=time.perf_counter() - began,
    )


def make_splits(
    config: DataConfig, seed: int, chat_tokenizer: str | None
) -> tuple[Mapping[str, list[Problem]], dict[str, float]]:
    """The five splits of ``seed``, and counts of what was left out of them.

    chat_tokenizer: model folder whose chat template renders the prompts (``data.files.chat``).
    """
    if config.arithmetic is not None:
        from s2d_core.worlds import problems as world

        return world.make_splits(config.arithmetic, config.splits, config.seed, seed), {}  # type: ignore[return-value]
    from s2d_core.data import splits as cutting
    from s2d_core.data.loaders import load_problems

    files = config.files
    assert files is not None
    tokenizer = None
    if chat_tokenizer:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(chat_tokenizer, trust_remote_code=False)
    test = load_problems(files, files.test, tokenizer=tokenizer) if files.test else None
    problems = load_problems(files, tokenizer=tokenizer)
    splits = cutting.make_splits(problems, config.splits, data_seed=config.seed, seed=seed, test=test)
    dropped = {name: float(getattr(splits, name)) for name in ("duplicates", "conflicting", "contaminated")}
    return splits.problems, dropped
