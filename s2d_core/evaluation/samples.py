"""The lines of an evaluation's ``samples.jsonl``, and correctness by problem out of them."""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file; none when there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def per_problem(samples: list[dict[str, Any]]) -> Float[np.ndarray, "problems"]:
    """Share of each problem's samples that are right (the greedy one left out), in the order of problem ids."""
    right: dict[str, list[int]] = defaultdict(list)
    for line in samples:
        if line["sample"] >= 0:
            right[line["problem_id"]].append(line["correct"])
    return np.array([np.mean(right[problem]) for problem in sorted(right)])


def per_level(samples: list[dict[str, Any]]) -> dict[str, float]:
    """Share of right samples by difficulty level."""
    return {str(level): share for level, share in _shares(samples, lambda line: line["level"]).items()}


def per_set(samples: list[dict[str, Any]]) -> dict[str, float]:
    """Share of right samples by test set, what a problem's id has before its first ``/``; none where there is one."""
    found = _shares(samples, lambda line: line["problem_id"].split("/")[0] if "/" in line["problem_id"] else "")
    return found if len(found) > 1 else {}


def _shares(samples: list[dict[str, Any]], key: Callable[[dict[str, Any]], Any]) -> dict[Any, float]:
    """Share of right samples by ``key``, in its order."""
    right: dict[Any, list[int]] = defaultdict(list)
    for line in samples:
        if line["sample"] >= 0:
            right[key(line)].append(line["correct"])
    return {group: float(np.mean(right[group])) for group in sorted(right)}
