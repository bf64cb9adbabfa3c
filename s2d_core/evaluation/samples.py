"""The lines of an evaluation's ``samples.jsonl``, and correctness by problem out of them."""

import json
from collections import defaultdict
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
    levels: dict[int, list[int]] = defaultdict(list)
    for line in samples:
        if line["sample"] >= 0:
            levels[line["level"]].append(line["correct"])
    return {str(level): float(np.mean(levels[level])) for level in sorted(levels)}
