"""Cuts problems into splits that provably do not overlap. Knows no files and no models."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from s2d_core.config.inputs import SplitSizes
from s2d_core.data.guard import Drop, Reason, guard, say
from s2d_core.data.normalise import fold
from s2d_core.data.problems import Problem
from s2d_core.errors import DataError

TRAINING = ("labelled", "held_out", "unlabelled")
EVALUATION = ("test", "validation")
SHOWN = 5


@dataclass(frozen=True)
class Splits:
    """The splits by name, what the guard left out of them, and its counts: what it found, what it dropped and why."""

    problems: dict[str, list[Problem]]
    dropped: list[Drop]
    counts: dict[str, int]


def make_splits(
    problems: Sequence[Problem],
    sizes: SplitSizes,
    *,
    data_seed: int,
    seed: int,
    tests: Mapping[str, Sequence[Problem]] | None = None,
) -> Splits:
    """Cut ``problems`` into labelled, held_out, unlabelled, validation and test.

    The validation and test splits depend on ``data_seed`` alone, so that every seed is measured on the same
    problems; what is left is shuffled by (``data_seed``, ``seed``) and cut into the training splits. With
    ``tests`` given (sets by name), the test split is drawn from them. The guard keeps out of training what occurs
    anywhere in ``tests``, validation or the test split, conflicting answers and all copies but one. Unlabelled
    problems lose their answers. With several sets, what each of them drops is counted (``dropped_by_NAME``).

    Raises DataError when there are not enough problems, or when an id stands for two problems.
    """
    tests = tests or {}
    guarded = guard(problems, tests)
    pool, dropped = guarded.kept, guarded.dropped
    wanted = {name: getattr(sizes, name) for name in (*EVALUATION, *TRAINING)}
    splits: dict[str, list[Problem]] = {}
    evaluation_order = random.Random(f"evaluation:{data_seed}")
    if tests:
        given = _unique([problem for each in tests.values() for problem in each])
        _need(f"data.files.{'tests' if len(tests) > 1 else 'test'}", given, {"test": wanted.pop("test")})
        splits["test"] = evaluation_order.sample(given, sizes.test)
    _need("the training problems", pool, wanted, dropped)

    evaluation_order.shuffle(pool)
    cut = [name for name in EVALUATION if name not in splits]
    for name in cut:
        splits[name], pool = pool[: wanted[name]], pool[wanted[name] :]
    again = guard(pool, {name: splits[name] for name in cut})  # the bar is higher against what is evaluated
    pool, dropped = again.kept, dropped + again.dropped
    _need("the training problems", pool, {name: wanted[name] for name in TRAINING}, dropped)
    random.Random(f"training:{data_seed}:{seed}").shuffle(pool)
    for name in TRAINING:
        splits[name], pool = pool[: wanted[name]], pool[wanted[name] :]
    splits["unlabelled"] = [replace(problem, answer=None) for problem in splits["unlabelled"]]
    check_disjoint(splits)
    counts = {"unique_prompts": guarded.unique_prompts, "conflicting_prompts": guarded.conflicting_prompts}
    for reason in get_args(Reason):
        counts[f"dropped_{reason}"] = sum(drop.reason == reason for drop in dropped)
    if len(tests) > 1:
        counts |= {f"dropped_by_{name}": sum(drop.source == name for drop in dropped) for name in tests}
    return Splits({name: splits[name] for name in (*TRAINING, *EVALUATION)}, dropped, counts)


def check_disjoint(splits: Mapping[str, Iterable[Problem]]) -> None:
    """Raises DataError when an id or a folded prompt occurs twice, within a split or between two."""
    owners: dict[tuple[str, str], str] = {}
    overlaps: list[str] = []
    for name, problems in splits.items():
        for problem in problems:
            for kind, key in (("id", problem.id), ("prompt", fold(problem.prompt))):
                if (kind, key) in owners:
                    overlaps.append(f"{kind} {key[:60]!r} in {owners[kind, key]} and {name}")
                owners[kind, key] = name
    if overlaps:
        shown = "; ".join(overlaps[:SHOWN])
        raise DataError(
            f"splits overlap in {len(overlaps)} places: {shown}. Ids must be unique over all files; leave "
            "data.files.id_field empty to have them made"
        )


def _unique(problems: Sequence[Problem]) -> list[Problem]:
    """The first problem of each folded prompt."""
    first: dict[str, Problem] = {}
    for problem in problems:
        first.setdefault(fold(problem.prompt), problem)
    return list(first.values())


def _need(source: str, problems: Sequence[Problem], wanted: Mapping[str, int], dropped: Sequence[Drop] = ()) -> None:
    if (total := sum(wanted.values())) > len(problems):
        parts = " + ".join(f"{name} {size}" for name, size in wanted.items() if size)
        raise DataError(
            f"data.splits asks for {parts} = {total} problems, but {source} hold {len(problems)}"
            f"{f' after {say(dropped)}' if dropped else ''}; lower data.splits or give more problems"
        )
