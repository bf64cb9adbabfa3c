"""Cuts problems into splits that provably do not overlap. Knows no files and no models."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from s2d_core.config.schema import SplitSizes
from s2d_core.data.problems import Problem
from s2d_core.errors import DataError

TRAINING = ("labelled", "held_out", "unlabelled")
EVALUATION = ("test", "validation")
SHOWN = 5


@dataclass(frozen=True)
class Splits:
    """The splits by name, and what was left out of them.

    duplicates: problems dropped because an earlier one has the same prompt. conflicting: those of them with
    another answer. contaminated: problems kept out of training because their prompt is in the test file.
    """

    problems: dict[str, list[Problem]]
    duplicates: int = 0
    conflicting: int = 0
    contaminated: int = 0


def fold(prompt: str) -> str:
    """What makes two prompts the same: their text, every run of whitespace counting as one space."""
    return " ".join(prompt.split())


def make_splits(
    problems: Sequence[Problem],
    sizes: SplitSizes,
    *,
    data_seed: int,
    seed: int,
    test: Sequence[Problem] | None = None,
) -> Splits:
    """Cut ``problems`` into labelled, held_out, unlabelled, validation and test.

    The validation and test splits depend on ``data_seed`` alone, so that every seed is measured on the same
    problems; what is left is shuffled by (``data_seed``, ``seed``) and cut into the training splits. With
    ``test`` given, the test split is drawn from it, and whatever occurs anywhere in it is kept out of the
    others. Unlabelled problems lose their answers.

    Raises DataError when there are not enough problems, or when an id stands for two problems.
    """
    pool, conflicting = _unique(problems)
    duplicates = len(problems) - len(pool)
    contaminated = 0
    if test is not None:
        tests, test_conflicting = _unique(test)
        duplicates += len(test) - len(tests)
        conflicting += test_conflicting
        forbidden = {fold(problem.prompt) for problem in tests}
        clean = [problem for problem in pool if fold(problem.prompt) not in forbidden]
        contaminated, pool = len(pool) - len(clean), clean
        _need("data.files.test", tests, {"test": sizes.test})
    wanted = {name: getattr(sizes, name) for name in (*EVALUATION, *TRAINING)}
    _need(
        "the training problems",
        pool,
        wanted if test is None else {name: size for name, size in wanted.items() if name != "test"},
        f" after {duplicates} duplicate and {contaminated} test problems were dropped",
    )

    splits: dict[str, list[Problem]] = {}
    evaluation_order = random.Random(f"evaluation:{data_seed}")
    if test is not None:
        splits["test"] = evaluation_order.sample(tests, sizes.test)
    evaluation_order.shuffle(pool)
    for name in EVALUATION:
        if name not in splits:
            splits[name], pool = pool[: wanted[name]], pool[wanted[name] :]
    random.Random(f"training:{data_seed}:{seed}").shuffle(pool)
    for name in TRAINING:
        splits[name], pool = pool[: wanted[name]], pool[wanted[name] :]
    splits["unlabelled"] = [replace(problem, answer=None) for problem in splits["unlabelled"]]
    check_disjoint(splits)
    return Splits({name: splits[name] for name in (*TRAINING, *EVALUATION)}, duplicates, conflicting, contaminated)


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


def _unique(problems: Sequence[Problem]) -> tuple[list[Problem], int]:
    """The first problem of each folded prompt, and how many later ones have another answer."""
    first: dict[str, Problem] = {}
    conflicting = 0
    for problem in problems:
        kept = first.setdefault(fold(problem.prompt), problem)
        conflicting += kept.answer != problem.answer
    return list(first.values()), conflicting


def _need(source: str, problems: Sequence[Problem], wanted: Mapping[str, int], dropped: str = "") -> None:
    if (total := sum(wanted.values())) > len(problems):
        parts = " + ".join(f"{name} {size}" for name, size in wanted.items() if size)
        raise DataError(
            f"data.splits asks for {parts} = {total} problems, but {source} hold {len(problems)}{dropped}; "
            "lower data.splits or give more problems"
        )
