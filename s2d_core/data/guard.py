"""The contamination guard: what may not stay in a pool of problems, and why. Knows no files and no splits.

Two problems are the same when

- their prompts are *exact* copies, white space folded;
- their *normalised* prompts are equal (``normalise.py``: no wrapper, no typography, every operator and number kept);
- they are *near*: the same numbers in the same order, the same answer, and enough shared word 8-grams (Jaccard);
- one prompt, of 8 words or more, stands word for word inside the other (*contained*), with the same numbers in the
  same order, whatever its answer. This holds against evaluation sets only.

Dropped from the pool are problems that are in an *evaluation* set, normalised prompts that have answers which differ
(*conflict*; nobody knows which is right) and every *duplicate* but the first. Numbers must agree because competition
problems differ in them alone; answers must, because a figure or a premise is often shared by two questions. The
price: a copy with another question, other numbers or its answer in another form is not found, unless it contains
the whole problem.

On DAPO-Math-17k against MATH-500 and AMC 2023 there was no false alarm among 50 pairs that were read (one of them
reads another number off the same solutions, and they agree). At a least overlap of 0.5 inside the pool there was
one: two questions about one ellipse. Against evaluation sets 0.5 held: all 38 pairs that are neither exact nor
normalised copies were read, and a leak costs more than a lost training problem.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from s2d_core.data.normalise import answer_key, fold, tokens, unwrap
from s2d_core.data.problems import Problem

VERSION = 1  # enters the fingerprint of data cut from files; raise it when other problems would be kept
NGRAM = 8
LEAST_OVERLAP = 0.6  # Jaccard: shared n-grams over all n-grams of the two, within the pool
LEAST_LEAK = 0.5  # the same, against an evaluation set

Reason = Literal["evaluation", "conflict", "duplicate"]
Match = Literal["exact", "normalised", "near", "contained"]


@dataclass(frozen=True)
class Drop:
    """A problem that was dropped, and ``other``, which it collides with.

    source: the evaluation set that holds ``other``; empty when ``other`` is of the pool. A copy of a copy is reported
    with the one it resembles, so ``other`` may be dropped too.
    """

    id: str
    reason: Reason
    match: Match
    other: str
    source: str
    prompt: str
    other_prompt: str


@dataclass(frozen=True)
class Guarded:
    """The problems that may stay, in their order, and those that may not.

    unique_prompts: distinct prompts of the pool, white space folded. conflicting_prompts: normalised prompts of the
    pool that have answers which differ.
    """

    kept: list[Problem]
    dropped: list[Drop]
    unique_prompts: int
    conflicting_prompts: int


@dataclass(eq=False)
class _Text:
    """A problem as it is compared: ``bare`` is its prompt without wrappers."""

    problem: Problem
    source: str
    bare: str
    alike: list["_Text"] = field(default_factory=list)  # others of the pool that it is a copy of

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
    Time grows with the number of distinct rows and of the pairs that share rare n-grams, not with all pairs.
    """
    rows: dict[tuple[str, str | None], list[int]] = defaultdict(list)
    for place, problem in enumerate(pool):
        rows[problem.prompt, problem.answer].append(place)
    texts, sets = _texts([pool[places[0]] for places in rows.values()], evaluation or {})
    verdicts = _verdicts(texts, _overlaps(texts, sets))
    kept: list[int] = []
    dropped: dict[int, Drop] = {}
    for text, (first, *copies) in zip(texts, rows.values(), strict=True):
        if text in verdicts:
            dropped[first] = verdict = verdicts[text]
        else:
            kept.append(first)
            verdict = _drop(text, "duplicate", text)
        dropped |= {place: replace(verdict, id=pool[place].id) for place in copies}
    answers: dict[str, set[str | None]] = defaultdict(set)
    for text in texts:
        answers[text.key].add(text.answer)
    return Guarded(
        kept=[pool[place] for place in sorted(kept)],
        dropped=[dropped[place] for place in sorted(dropped)],
        unique_prompts=len({fold(prompt) for prompt, _ in rows}),
        conflicting_prompts=sum(len(found - {None}) > 1 for found in answers.values()),
    )


def say(dropped: Sequence[Drop]) -> str:
    """How many were dropped for which reason, in words."""
    count = Counter(drop.reason for drop in dropped)
    return (
        f"{count['duplicate']} duplicate, {count['conflict']} conflicting and {count['evaluation']} evaluation "
        "problems were dropped"
    )


def _texts(pool: Sequence[Problem], evaluation: Mapping[str, Sequence[Problem]]) -> tuple[list[_Text], list[_Text]]:
    files = {"": pool} | dict(evaluation)
    bare = unwrap([[problem.prompt for problem in problems] for problems in files.values()])
    texts = [
        [_Text(problem, source, text) for problem, text in zip(problems, prompts, strict=True)]
        for (source, problems), prompts in zip(files.items(), bare, strict=True)
    ]
    return texts[0], [text for more in texts[1:] for text in more]


def _verdicts(texts: Sequence[_Text], hits: Mapping[_Text, _Text]) -> dict[_Text, Drop]:
    """Which texts go, and why. hits: what each text collides with in the evaluation sets, if anything."""
    verdicts: dict[_Text, Drop] = {}
    for group in _groups(texts):
        hit = any(text in hits for text in group)
        conflicting = len({text.answer for text in group} - {None}) > 1
        for place, text in enumerate(group):
            if hit:
                verdicts[text] = _drop(text, "evaluation", hits.get(text) or text.alike[0])
            elif conflicting:
                verdicts[text] = _drop(text, "conflict", _opponent(text, group))
            elif place:
                verdicts[text] = _drop(text, "duplicate", text.alike[0])
    return verdicts


def _overlaps(texts: Sequence[_Text], sets: Sequence[_Text]) -> dict[_Text, _Text]:
    """Which problem of the evaluation sets each text collides with, if any. Only the same numbers are compared."""
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
            found = [other for other in shared if _near(text, other, LEAST_LEAK) or _contained(text, other)]
            if found:
                hits[text] = max(found, key=lambda other: shared[other])
    return hits


def _groups(texts: Sequence[_Text]) -> list[list[_Text]]:
    """The texts that are copies of each other, directly or through other copies; in order. Fills in ``alike``."""
    leader = list(range(len(texts)))

    def find(place: int) -> int:
        while leader[place] != place:
            leader[place] = leader[leader[place]]
            place = leader[place]
        return place

    for one, other in (*_equal(texts), *_alike(texts)):
        texts[one].alike.append(texts[other])
        texts[other].alike.append(texts[one])
        first, second = sorted((find(one), find(other)))
        leader[second] = first
    groups: dict[int, list[_Text]] = defaultdict(list)
    for place, text in enumerate(texts):
        groups[find(place)].append(text)
    return list(groups.values())


def _equal(texts: Sequence[_Text]) -> Iterator[tuple[int, int]]:
    first: dict[str, int] = {}
    for place, text in enumerate(texts):
        if (earlier := first.setdefault(text.key, place)) != place:
            yield earlier, place


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
                if _near(texts[place], texts[other], LEAST_OVERLAP):
                    yield other, place
            for gram in rarest:
                index[gram].append(place)


def _near(one: _Text, other: _Text, least: float) -> bool:
    """Whether two texts with the same numbers have the same answer and overlap by ``least``."""
    if one.answer is None or one.answer != other.answer:
        return False
    shared = len(one.grams & other.grams)
    return shared > 0 and shared >= least * (len(one.grams) + len(other.grams) - shared)


def _contained(one: _Text, other: _Text) -> bool:
    short, long = sorted((one.key, other.key), key=len)
    return f" {short} " in f" {long} "


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
    elif other.source and not _near(text, other, LEAST_LEAK):
        match = "contained"
    problem = text.problem
    return Drop(problem.id, reason, match, other.problem.id, other.source, problem.prompt, other.problem.prompt)
