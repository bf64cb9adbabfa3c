"""Stage kind ``data``: the problems of one seed, split and written as a ``datasets`` dataset."""

import json
import logging
import time
from collections.abc import Iterable
from pathlib import Path

from s2d_core.config.inputs import DataConfig
from s2d_core.data.dataset import write_dataset
from s2d_core.data.guard import Drop, say
from s2d_core.data.splits import Splits
from s2d_core.data.splits import make_splits as cut
from s2d_core.spec import StageResult
from s2d_core.training import parallel
from s2d_core.training.context import Context

logger = logging.getLogger(__name__)


def write_data(context: Context) -> StageResult:
    """Write ``dataset/``: five splits that do not overlap; for a person's own files also ``dropped.jsonl``.

    Raises DataError when there are too few problems.
    """
    began = time.perf_counter()
    settings = dict(context.spec.settings)
    settings.pop("source", None)
    tokenizer = settings.pop("chat_tokenizer", None)
    config = DataConfig.model_validate(settings)
    splits = make_splits(config, context.spec.seed, tokenizer)
    if parallel.rank() == 0:
        if config.files is not None:
            counts = splits.counts
            logger.info(
                "contamination guard: %d unique prompts, %d with conflicting answers; %s (dropped.jsonl)",
                counts["unique_prompts"],
                counts["conflicting_prompts"],
                say(splits.dropped),
            )
            _write_dropped(context.directory / "dropped.jsonl", splits.dropped)
        write_dataset(context.directory / "dataset", splits.problems)
    sizes = {f"problems_{name}": float(len(problems)) for name, problems in splits.problems.items()}
    return StageResult(
        fingerprint=context.spec.fingerprint,
        name=context.spec.name,
        kind="data",
        metrics=sizes | {name: float(count) for name, count in splits.counts.items()},
        seconds=time.perf_counter() - began,
    )


def make_splits(config: DataConfig, seed: int, chat_tokenizer: str | None) -> Splits:
    """The five splits of ``seed``, and what was left out of them.

    chat_tokenizer: model folder whose chat template renders the prompts (``data.files.chat``).
    """
    if config.arithmetic is not None:
        from s2d_core.worlds import problems as world

        drawn = world.make_splits(config.arithmetic, config.splits, config.seed, seed)
        return Splits({str(name): problems for name, problems in drawn.items()}, dropped=[], counts={})
    from s2d_core.data.loaders import load_problems

    files = config.files
    assert files is not None
    tokenizer = None
    if chat_tokenizer:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(chat_tokenizer, trust_remote_code=False)
    tests = {
        name: load_problems(files, source, tokenizer, name if files.tests else "")
        for name, source in files.test_sources.items()
    }
    problems = load_problems(files, tokenizer=tokenizer)
    return cut(problems, config.splits, data_seed=config.seed, seed=seed, tests=tests)


def _write_dropped(path: Path, dropped: Iterable[Drop]) -> None:
    """One JSON object a dropped problem; exact duplicates, of which there may be many, without their text."""
    with path.open("w", encoding="utf-8") as file:
        for drop in dropped:
            entry = dict(vars(drop))
            if (drop.reason, drop.match) == ("duplicate", "exact"):
                del entry["prompt"], entry["other_prompt"]
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
