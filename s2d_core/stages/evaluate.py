"""Stage kind ``evaluate``: accuracy of one model on the test split, and its distance to a teacher if it has one.

Sampled and greedy completions of every test problem; each is kept in ``samples.jsonl`` with its verdict, and the
distance to the teacher by position in ``distance.json``. The seeds of the samples depend on the problem only, so two
models are compared under common random numbers.
"""

import json
import shutil
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

from s2d_core.config.schema import EvaluationConfig
from s2d_core.data.dataset import read_split
from s2d_core.data.problems import Problem
from s2d_core.evaluation.metrics import accuracy_metrics
from s2d_core.rewards.boxes import last_box
from s2d_core.rewards.verifier import Verdict, Verifier
from s2d_core.rollouts.files import shard_size
from s2d_core.rollouts.types import Request, Rollout
from s2d_core.spec import StageResult
from s2d_core.stages.distance import distance
from s2d_core.stages.trained import decode, encode, load_tokenizer
from s2d_core.store import DISTANCE, ROLLOUTS, write_json
from s2d_core.training import parallel
from s2d_core.training.context import Context, stable_seed
from s2d_core.training.shared_engine import generate_all, open_engine
from s2d_core.training.sources import sampling, share

EXTRA_SETTINGS = ("engine", "dtype", "measures")
Row = dict[str, Any]  # one line of samples.jsonl


def evaluate(context: Context) -> StageResult:
    """avg@k, pass@k, maj@k, greedy accuracy with standard errors over problems; with a teacher also condition C2."""
    began = time.perf_counter()
    settings = context.spec.settings
    config = EvaluationConfig.model_validate({k: v for k, v in settings.items() if k not in EXTRA_SETTINGS})
    directory, _ = context.parent("data")
    problems = read_split(directory / "dataset", config.split)
    mine, groups = share(problems), _sample(context, config, problems)
    rows = [row for share in parallel.gather(_grade(context, mine, groups)) for row in share]
    order = {problem.id: index for index, problem in enumerate(problems)}
    rows.sort(key=lambda row: (order[row["problem_id"]], row["sample"]))
    correct, greedy = _correctness(rows, len(problems))
    metrics = accuracy_metrics(correct, greedy, _answers(rows, len(problems)), config.pass_k or config.k)
    if "teacher" in context.spec.inputs:
        measured, table = distance(context, [rollout for group in groups for rollout in group[1:]])
        metrics |= measured
        if parallel.rank() == 0:
            write_json(context.directory / DISTANCE, table)
    if parallel.rank() == 0:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (context.directory / "samples.jsonl").write_text(lines)
        shutil.rmtree(context.directory / ROLLOUTS, ignore_errors=True)  # said again in the samples
    seconds = time.perf_counter() - began
    return StageResult(
        fingerprint=context.spec.fingerprint,
        name=context.spec.name,
        kind="evaluate",
        metrics=metrics,
        tokens={"sampled": sum(row["tokens"] for row in rows)},
        seconds=seconds,
        device_seconds=seconds * parallel.world_size(),
    )


def _sample(context: Context, config: EvaluationConfig, problems: Sequence[Problem]) -> list[list[Rollout]]:
    """For each problem of this rank its greedy completion, then ``k`` samples; what a kill has left is not lost."""
    tokenizer = load_tokenizer(context)
    encoded = encode(tokenizer, problems)
    length = max(map(len, encoded.values())) + config.sampling.max_tokens
    engine = open_engine(context, "policy", eos_token_id=tokenizer.eos_token_id, max_length=length)
    wanted = [Request(p.id, encoded[p.id], stable_seed(config.seed, p.id)) for p in share(problems)]
    drawn = sampling(config.sampling, config.k)
    directory = context.directory / ROLLOUTS
    with closing(engine):
        once = replace(drawn, temperature=0.0, n=1)
        greedy = generate_all(engine, wanted, once, directory / "greedy", shard_size(context.rollouts, 1))
        sampled = generate_all(engine, wanted, drawn, directory / "sampled", shard_size(context.rollouts, config.k))
    return [first + rest for first, rest in zip(greedy, sampled, strict=True)]


def _grade(context: Context, problems: Sequence[Problem], groups: list[list[Rollout]]) -> list[Row]:
    """Sample −1 is the greedy completion."""
    tokenizer = load_tokenizer(context)
    texts = [decode(tokenizer, r.completion_ids) for group in groups for r in group]
    golds = [problem.answer or "" for problem, group in zip(problems, groups, strict=True) for _ in group]
    settings = context.verifier
    with Verifier(settings.workers, settings.timeout_s, settings.memory_mb) as verifier:
        verdicts: list[Verdict] = verifier.score(list(zip(texts, golds, strict=True)))
    rows, flat = [], iter(zip(texts, verdicts, strict=True))
    for problem, group in zip(problems, groups, strict=True):
        for index, rollout in enumerate(group):
            text, verdict = next(flat)
            rows.append(
                {
                    "problem_id": problem.id,
                    "level": problem.level,
                    "sample": index - 1,
                    "correct": int(verdict.reward),
                    "status": verdict.status,
                    "tokens": len(rollout.completion_ids),
                    "truncated": int(rollout.finish_reason == "length"),
                    "prompt": problem.prompt,
                    "answer": problem.answer,
                    "answer_text": last_box(text),
                    "completion": text,
                }
            )
    return rows


def _correctness(rows: list[Row], problems: int) -> tuple[np.ndarray, np.ndarray]:
    """([problems, k] correctness of the samples, [problems] of the greedy completions)."""
    correct = np.array([row["correct"] for row in rows], dtype=float).reshape(problems, -1)
    return correct[:, 1:], correct[:, 0]


def _answers(rows: list[Row], problems: int) -> list[list[str | None]]:
    """[problems][k] answers of the samples; None where there is no box."""
    width = len(rows) // problems
    return [[row["answer_text"] for row in rows[i * width + 1 : (i + 1) * width]] for i in range(problems)]
