import csv
import hashlib
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2d_core.config.inputs import FilesConfig
from s2d_core.data.guard import LEAST_OVERLAP, NGRAM, guard, say
from s2d_core.data.loaders import load_problems
from s2d_core.data.problems import Problem

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
LONG = "A clueless ant starts at point A and walks 1 cm north, then 2 cm east, then 3 cm south, and so on until it has"
BEFORE = "Solve the following problem.\n\n"
AFTER = "\n\nRemember to box your answer."


def pool(*rows):
    """Problems ``p0``, ``p1``, ... of (prompt, answer) pairs."""
    return [Problem(f"p{i}", prompt, answer) for i, (prompt, answer) in enumerate(rows)]


def ids(guarded):
    return [problem.id for problem in guarded.kept]


def found(guarded):
    return [(drop.id, drop.reason, drop.match, drop.source, drop.other) for drop in guarded.dropped]


@pytest.mark.parametrize(
    ("one", "other", "match"),
    [
        ("Find  $x$\nnow", "Find $x$ now", "exact"),
        ("What is $12 + 30$?", "What is \\(12+30\\)", "normalised"),
        ("Take $\\frac12$ of 10,000.", "Take \\dfrac{1}{2} of $10{,}000$", "normalised"),
        (f"{LONG} gone 41 steps. Find its distance to A.", f"{LONG} gone 41 steps. How far is A?", "near"),
    ],
)
def test_every_copy_but_the_first_is_dropped_and_says_what_it_is_a_copy_of(one, other, match):
    guarded = guard(pool((one, "7"), ("unlike", "1"), (other, "7.0")))
    assert ids(guarded) == ["p0", "p1"]
    assert found(guarded) == [("p2", "duplicate", match, "", "p0")]
    assert say(guarded.dropped) == "1 duplicate, 0 conflicting and 0 evaluation problems were dropped"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Compute 1 + 2", "Compute 1 - 2"),
        ("Compute 12", "Compute 1 2"),
        ("Compute 1.5", "Compute 15"),
        ("Compute $x^{12}$", "Compute $x^1 2$"),
        ("Find $a$", "Find $A$"),
        (f"{LONG} gone 41 steps", f"{LONG} gone 43 steps"),
        ("Is $a<b$?", "Is $a>b$?"),
    ],
)
def test_what_differs_in_a_sign_or_a_number_is_not_a_copy(one, other):
    assert len(guard(pool((one, "7"), (other, "7"), ("unlike", "1"))).kept) == 3


def test_near_copies_with_other_answers_are_two_problems():
    asked = (f"{LONG} gone. How far is A?", "7"), (f"{LONG} gone. What is its direction?", "8")
    guarded = guard(pool(*asked, ("unlike", "1")))
    assert not guarded.dropped
    assert guarded.conflicting_prompts == 0


def test_a_prompt_with_answers_that_differ_goes_with_all_its_copies():
    near = f"{LONG} gone 41 steps"
    guarded = guard(pool((f"{near}.", "1"), ("other", "1"), (f"$ {near} $", "2"), (f"{near}. Find it", "1")))
    assert ids(guarded) == ["p1"]
    assert [(drop.id, drop.reason, drop.other) for drop in guarded.dropped] == [
        ("p0", "conflict", "p2"),
        ("p2", "conflict", "p0"),
        ("p3", "conflict", "p2"),
    ]
    assert (guarded.unique_prompts, guarded.conflicting_prompts) == (4, 1)


@pytest.mark.parametrize(("one", "other"), [("20", "20.0"), ("0.5", "\\frac12"), ("10,000", "10000"), ("$x$", "x")])
def test_answers_spelt_in_two_ways_do_not_conflict(one, other):
    guarded = guard(pool(("same", one), ("same", other)))
    assert found(guarded) == [("p1", "duplicate", "exact", "", "p0")]


def test_what_is_in_an_evaluation_set_goes_whatever_its_answer_and_takes_its_copies_along():
    test = [Problem("t0", "What is 12+30?", None), Problem("t1", f"{LONG} gone 41 steps?", "9")]
    guarded = guard(
        pool(
            ("what is $12 + 30$", "42"),
            (f"{LONG} gone 41 steps? Give the answer as m + n.", "12"),
            (f"{LONG} gone 41 steps? Give the answer as the sum m + n of two numbers", "12"),
            ("unlike", "1"),
        ),
        {"empty": [], "test": test},
    )
    assert ids(guarded) == ["p3"]
    assert found(guarded) == [
        ("p0", "evaluation", "normalised", "test", "t0"),
        ("p1", "evaluation", "contained", "test", "t1"),
        ("p2", "evaluation", "contained", "test", "t1"),
    ]


def test_a_shared_wrapper_neither_hides_copies_nor_makes_them():
    wrapped = [(f"{BEFORE}Compute {i} + {i * i}{AFTER}", str(i)) for i in range(20)]
    test = [Problem("t", "Compute 3+9", "3"), Problem("u", "Name a prime", "2")]
    guarded = guard(pool(*wrapped), {"test": test})
    assert found(guarded) == [("p3", "evaluation", "normalised", "test", "t")]


def test_nothing_is_found_in_nothing():
    assert guard([], {"test": []}).kept == []


BASE = [first + second for first in "abcde" for second in "abcdefghijkl"]
edits = st.dictionaries(st.integers(0, len(BASE) - 1), st.sampled_from(["yy", "zz"]), max_size=4)


def grams(prompt):
    tokens = prompt.split()
    return {tuple(tokens[i : i + NGRAM]) for i in range(len(tokens) - NGRAM + 1)}


@given(st.lists(edits, min_size=2, max_size=8))
def test_the_index_finds_the_same_near_copies_as_comparing_every_pair(edited):
    ends = (("uu", "vv"), ("ww", "xx"))  # which not all prompts share, or they would count as a wrapper
    marked = [
        " ".join([ends[i % 2][0], *(edit.get(place, word) for place, word in enumerate(BASE)), ends[i % 2][1]])
        for i, edit in enumerate(edited)
    ]
    guarded = guard(pool(*((prompt, "1") for prompt in marked)))
    leader = list(range(len(marked)))
    for j, other in enumerate(marked):
        for i, one in enumerate(marked[:j]):
            shared, union = grams(one) & grams(other), grams(one) | grams(other)
            if len(shared) >= LEAST_OVERLAP * len(union):
                low, high = sorted((leader[i], leader[j]))
                leader = [low if each == high else each for each in leader]
    assert ids(guarded) == [f"p{i}" for i in sorted(set(leader))]


prompts = st.sampled_from(["1+1", "1 + 1", "2+2", f"{LONG} gone", f"{LONG} away", "$2+2$", "x"])


@given(st.lists(st.tuples(prompts, st.sampled_from(["1", "2", None])), max_size=12))
def test_every_problem_is_kept_or_dropped_once_in_order_and_a_guarded_pool_stays_as_it_is(rows):
    problems = pool(*rows)
    guarded = guard(problems)
    dropped = [drop.id for drop in guarded.dropped]
    assert sorted(ids(guarded) + dropped) == sorted(problem.id for problem in problems)
    assert all(int(a[1:]) < int(b[1:]) for names in (ids(guarded), dropped) for a, b in pairwise(names))
    assert guard(guarded.kept).kept == guarded.kept


def test_many_copies_cost_seconds():
    rows = pool(*((f"{BEFORE}{LONG} gone {i % 2000} steps{AFTER}", str(i % 2000)) for i in range(200_000)))
    began = time.process_time()
    guarded = guard(rows, {"test": [Problem("t", f"{LONG} gone 3 steps", "3")]})
    assert time.process_time() - began < 20
    assert (len(guarded.kept), guarded.unique_prompts) == (1999, 2000)


@pytest.fixture(scope="module")
def published():
    """The published labelled pool, guarded against two evaluation sets."""
    for name in ("dapo_math_17k.parquet", "math_500.json", "amc23_83.json"):
        if not (SHARED / name).exists():
            pytest.skip(f"{name} is not there (shared test data)")
    nested = {"answer_field": "reward_model.ground_truth", "id_field": "extra_info.index"}
    problems = load_problems(FilesConfig(train=str(SHARED / "dapo_math_17k.parquet"), **nested))
    sets = {
        name: load_problems(FilesConfig(train=str(SHARED / file), id_field="id"))
        for name, file in (("math_500", "math_500.json"), ("amc23", "amc23_83.json"))
    }
    began = time.process_time()
    guarded = guard(problems, sets)
    return guarded, time.process_time() - began


def test_the_published_pool_shows_its_known_copies_conflicts_and_overlaps(published):
    guarded, seconds = published
    assert seconds < 60
    assert guarded.unique_prompts == 17_188
    assert guarded.conflicting_prompts == 25  # 12 of them with prompts equal but for white space
    overlaps = {
        (name, match): len(
            {drop.other for drop in guarded.dropped if drop.source == name and drop.match in ("exact", match)}
        )
        for name in ("math_500", "amc23")
        for match in ("exact", "normalised")
    }
    assert overlaps["math_500", "exact"] == 4
    assert overlaps["math_500", "normalised"] >= 7
    assert overlaps["amc23", "exact"] == 11
    assert overlaps["amc23", "normalised"] >= 14
    assert len(guarded.kept) + len(guarded.dropped) == 17_917


def test_all_of_fifty_sampled_near_copies_were_read_and_are_no_false_alarm(published):
    """``judged_pairs.tsv`` says what reading both texts of each pair showed; a pair it lacks was not judged."""
    guarded, _ = published
    near = [drop for drop in guarded.dropped if drop.match in ("near", "contained")]
    sample = sorted(near, key=lambda drop: hashlib.sha256(drop.id.encode()).hexdigest())[:50]
    with Path(__file__).with_name("judged_pairs.tsv").open(encoding="utf-8", newline="") as file:
        judged = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert all(row["verdict"].startswith("same") for row in judged)
    assert [(row["problem"], row["other"], row["match"]) for row in judged] == [
        (drop.id[:8], f"{drop.source}:{drop.other}" if drop.source else drop.other[:8], drop.match) for drop in sample
    ]
