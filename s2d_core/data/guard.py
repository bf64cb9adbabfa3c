"""The contamination guard: what may not stay in a pool of problems, and why. Knows no files and no splits.

Two problems are the same when their normal forms are equal, or when they hold the same numbers in the same order,
have the same answer, and share enough of their word 8-grams. A problem of an evaluation set is found too where it
stands word for word inside a longer one with the same numbers, whatever that asks for in the end.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from s2d_core.data.normalise import answer_key, fold, tokens, unwrap
from s2d_core.data.problems import Problem

NGRAM = 8
LEAST_OVERLAP = 0.5  # Jaccard: shared n-grams over all n-grams of the two

Reason = Literal["evaluation", "conflict", "duplicate"]
Match = Literal["exact", "normalised", "near", "contained"]


@dataclass(frozen=True)
class Drop:
    """A problem that was dropped. ``other`` is what it collides with: a problem of ``source``, or of the pool."""

    id: str
    reason: Reason
    match: Match
    other: str
    source: str
    prompt: str
    other_prompt: str


@dataclass(frozen=True)
class Guarded:
    """The problems that may stay, in their order, and those that may not."""

    kept: list[Problem]
    dropped: list[Drop] = field(default_factory=list)

    def count(self, reason: Reason) -> int:
        return sum(drop.reason == reason for drop in self.dropped)


@dataclass(eq=False)
class _Text:
    """A problem as it is compared: ``bare`` is its prompt without wrappers."""

    problem: Problem
    source: str
    bare: str

    def __post_init__(self) -> None:
        self.tokens = tokens(self.bare)
        self.key = " ".join(self.tokens) or fold(self.bare)
        self.numbers = tuple(token for token in self.tokens if token.isdigit())
        self.answer = None if self.problem.answer is None else answer_key(self.problem.answer)

    @cached_property
    def grams(self) -> frozenset[tuple[str, ...]]:
        return frozenset(zip(*(self.tokens[start:] for start in range(NGRAM)), strict=False))


def guard(pool: Sequence[Problem], evaluation: Mapping[str, Sequence[Problem]] | None = None) -> Guarded:
    """Drop from ``pool`` what is in an evaluation set, prompts with conflicting answers, and all copies but the first.

    evaluation: name of each set → its problems, of which none is ever dropped.
    Copies stand or fall together: if one of them is in an evaluation set, or two have different answers, all go.
    Time grows with the number of problems and of the pairs that share rare n-grams, not with all pairs.
    """
    texts, sets = _texts(pool, evaluation or {})
    hits = _overlaps(texts, sets)
    kept: set[int] = set()
    dropped: dict[int, Drop] = {}
    for members in _groups(texts):
        group = [texts[member] for member in members]
        hit = next((text for text in group if text in hits), None)
        conflicting = len({text.answer for text in group} - {None}) > 1
        if hit is None and not conflicting:
            kept.add(members[0])
        for member, text in zip(members, group, strict=True):
            if text in hits:
                dropped[member] = _drop(text, "evaluation", hits[text])
            elif hit is not None:
                dropped[member] = _drop(text, "evaluation", hit)
            elif conflicting:
                dropped[member] = _drop(text, "conflict", _opponent(text, group))
            elif member not in kept:
                dropped[member] = _drop(text, "duplicate", group[0])
    return Guarded([pool[place] for place in sorted(kept)], [dropped[place] for place in sorted(dropped)])


def _texts(pool: Sequence[Problem], evaluation: Mapping[str, Sequence[Problem]]) -> tuple[list[_Text], list[_Text]]:
    files = {"": pool} | dict(evaluation)
    bare = unwrap([[problem.prompt for problem in problems] for problems in files.values()])
    texts = [
        [_Text(problem, source, text) for problem, text in zip(problems, prompts, strict=True)]
        for (source, problems), prompts in zip(files.items(), bare, strict=True)
    ]
    return texts[0], [text for more in texts[1:] for text in more]


def _overlaps(texts: Sequence[_Text], sets: Sequence[_Text]) -> dict[_Text, _Text]:
    """Which problem of the evaluation sets each text collides with, if any."""
    by_key: dict[str, _Text] = {}
    holders: dict[tuple[tuple[str, ...], tuple[str, ...]], list[_Text]] = defaultdict(list)
    for other in sets:
        by_key.setdefault(other.key, other)
        for gram in other.grams:
            holders[other.numbers, gram].append(other)
    blocks = {other.numbers for other in sets}
    hits: dict[_Text, _Text] = {}
    for text in texts:
        if text.key in by_key:
            hits[text] = by_key[text.key]
        elif text.numbers in blocks:
            shared = Counter(other for gram in text.grams for other in holders.get((text.numbers, gram), ()))
            found = [other for other in shared if _near(text, other) or _contained(text, other)]
            if found:
                hits[text] = max(found, key=lambda other: shared[other])
    return hits


def _groups(texts: Sequence[_Text]) -> list[list[int]]:
    """Places of the texts that are copies of each other, directly or through other copies; in order."""
    leader = list(range(len(texts)))

    def find(place: int) -> int:
        while leader[place] != place:
            leader[place] = leader[leader[place]]
            place = leader[place]
        return place

    for one, other in (*_equal(texts), *_alike(texts)):
        first, second = sorted((find(one), find(other)))
        leader[second] = first
    groups: dict[int, list[int]] = defaultdict(list)
    for place in range(len(texts)):
        groups[find(place)].append(place)
    return list(groups.values())


def _equal(texts: Sequence[_Text]) -> Iterator[tuple[int, int]]:
    first: dict[str, int] = {}
    for place, text in enumerate(texts):
        yield first.setdefault(text.key, place), place


def _alike(texts: Sequence[_Text]) -> Iterator[tuple[int, int]]:
    """Pairs of places whose texts are near. Exact, by prefix filtering (Chaudhuri et al. 2006).

    Of two sets that overlap enough, each has a member of the other among its rarest few; only these are indexed.
    """
    blocks: dict[tuple[tuple[str, ...], str], dict[str, int]] = defaultdict(dict)
    for place, text in enumerate(texts):
        if text.answer is not None:
            blocks[text.numbers, text.answer].setdefault(text.key, place)
    for block in blocks.values():
        if len(block) == 1:
            continue
        frequency = Counter(gram for place in block.values() for gram in texts[place].grams)
        index: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for place in block.values():
            rarest = sorted(texts[place].grams, key=lambda gram: (frequency[gram], gram))
            rarest = rarest[: len(rarest) - math.ceil(LEAST_OVERLAP * len(rarest)) + 1]
            for other in {other for gram in rarest for other in index[gram]}:
                if _near(texts[place], texts[other]):
                    yield other, place
            for gram in rarest:
                index[gram].append(place)


def _near(one: _Text, other: _Text) -> bool:
    if one.numbers != other.numbers or one.answer is None or one.answer != other.answer:
        return False
    shared = len(one.grams & other.grams)
    return shared > 0 and shared >= LEAST_OVERLAP * (len(one.grams) + len(other.grams) - shared)


def _contained(one: _Text, other: _Text) -> bool:
    short, long = sorted((one.key, other.key), key=len)
    return one.numbers == other.numbers and f" {short} " in f" {long} "


def _opponent(text: _Text, group: Sequence[_Text]) -> _Text:
    """The first of ``group`` with another answer, and with the same normal form if there is one."""
    others = [other for other in group if other.answer != text.answer]
    return next((other for other in others if other.key == text.key), others[0])


def _drop(text: _Text, reason: Reason, other: _Text) -> Drop:
    match: Match = "near"
    if fold(text.bare) == fold(other.bare):
        match = "exact"
    elif text.key == other.key:
        match = "normalised"
    elif reason == "evaluation" and not _near(text, other) and _contained(text, other):
        match = "contained"
    problem = text.problem
    return Drop(problem.id, reason, match, other.problem.id, other.source, problem.prompt, other.problem.prompt)
