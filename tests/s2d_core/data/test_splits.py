from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2d_core.config.inputs import FilesConfig, SplitSizes
from s2d_core.data.loaders import load_problems
from s2d_core.data.normalise import fold, tokens
from s2d_core.data.problems import Problem
from s2d_core.data.splits import check_disjoint, make_splits
from s2d_core.errors import DataError

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
SIZES = SplitSizes(labelled=10, held_out=8, unlabelled=20, validation=5, test=7)


def problems(count, prefix="q"):
    return [Problem(id=f"{prefix}{i}", prompt=f"{prefix} {i}?", answer=str(i)) for i in range(count)]


def ids(splits, name):
    return [p.id for p in splits.problems[name]]


def test_each_split_has_the_size_asked_for_and_unlabelled_prompts_have_no_answer():
    splits = make_splits(problems(60), SIZES, data_seed=0, seed=0)
    assert {name: len(rows) for name, rows in splits.problems.items()} == SIZES.model_dump()
    assert all(p.answer is None for p in splits.problems["unlabelled"])
    assert all(p.answer is not None for name in ("labelled", "held_out", "test") for p in splits.problems[name])


def test_evaluation_splits_depend_on_the_data_seed_alone_and_training_splits_on_both():
    base = make_splits(problems(60), SIZES, data_seed=0, seed=0)
    again = make_splits(problems(60), SIZES, data_seed=0, seed=0)
    other_seed = make_splits(problems(60), SIZES, data_seed=0, seed=1)
    other_data = make_splits(problems(60), SIZES, data_seed=1, seed=0)
    assert base == again
    for name in ("test", "validation"):
        assert ids(base, name) == ids(other_seed, name) != ids(other_data, name)
    for name in ("labelled", "held_out", "unlabelled"):
        assert ids(base, name) != ids(other_seed, name)
        assert ids(base, name) != ids(other_data, name)


def test_the_test_split_does_not_change_with_the_other_sizes():
    bigger = SIZES.model_copy(update={"validation": 9, "unlabelled": 3})
    base, other = (make_splits(problems(60), sizes, data_seed=3, seed=0) for sizes in (SIZES, bigger))
    assert ids(base, "test") == ids(other, "test")


@given(
    st.lists(st.sampled_from(["a b", "a  b", " a\nb ", "c", "d\t", "d", "e", "f", "A b"]), min_size=1), st.integers()
)
def test_no_prompt_is_in_two_splits_whatever_the_spacing(prompts, seed):
    pool = [Problem(id=str(i), prompt=prompt, answer="1") for i, prompt in enumerate(prompts)]
    distinct = len({tuple(tokens(p.prompt)) for p in pool})
    sizes = SplitSizes(labelled=1, test=1, unlabelled=max(0, distinct - 2))
    if distinct < 2:
        with pytest.raises(DataError):
            make_splits(pool, sizes, data_seed=0, seed=seed)
        return
    splits = make_splits(pool, sizes, data_seed=0, seed=seed)
    kept = [fold(p.prompt) for rows in splits.problems.values() for p in rows]
    assert len(kept) == len(set(kept)) == distinct
    assert splits.counts["dropped_duplicate"] == len(splits.dropped) == len(pool) - distinct


def test_what_occurs_anywhere_in_the_test_file_is_kept_out_of_training_and_counted():
    test = problems(20, "test")
    copies = [Problem(id=f"copy{i}", prompt=f"  test   {i}?\n", answer=str(i)) for i in range(6)]
    sizes = SplitSizes(labelled=30, held_out=10, validation=10, test=5)
    splits = make_splits([*problems(50), *copies], sizes, data_seed=0, seed=0, tests={"test": test})
    assert splits.counts["dropped_evaluation"] == 6
    assert set(ids(splits, "test")) < {p.id for p in test}
    assert not any(
        name.startswith("copy") for split in ("labelled", "held_out", "validation") for name in ids(splits, split)
    )


def test_prompts_with_conflicting_answers_are_in_no_split_and_counted_apart():
    pool = [*problems(12), Problem("x", "q  1?", "1"), Problem("y", "q 2? ", "other")]
    splits = make_splits(pool, SplitSizes(labelled=6, test=5), data_seed=0, seed=0)
    assert {p.id for rows in splits.problems.values() for p in rows} == {f"q{i}" for i in range(12) if i != 2}
    assert splits.counts == {
        "unique_prompts": 12,
        "conflicting_prompts": 1,
        "dropped_evaluation": 0,
        "dropped_conflict": 2,
        "dropped_duplicate": 1,
    }


def test_what_contains_a_problem_of_a_split_cut_for_evaluation_is_kept_out_of_training():
    asked = [f"Find the least number that divides {i} more than its square and is not a square" for i in range(10)]
    pool = [Problem(f"{i}", prompt, "1") for i, prompt in enumerate(asked)]
    pool += [Problem(f"{i}+", f"{prompt}, then add two", "3") for i, prompt in enumerate(asked)]
    splits = make_splits(pool, SplitSizes(labelled=12, test=3, validation=1), data_seed=0, seed=0)
    evaluated = {p.id[0] for name in ("validation", "test") for p in splits.problems[name]}
    assert not evaluated & {p.id[0] for p in splits.problems["labelled"]}
    assert splits.counts["dropped_evaluation"] == len({p.id[0] for p in pool if p.id[0] in evaluated}) > 0


def test_too_few_problems_are_refused_with_the_numbers():
    with pytest.raises(
        DataError, match=r"labelled 10 .* = 50 problems, but the training problems hold 49 after 3 dupl"
    ):
        make_splits([*problems(49), *problems(3)], SIZES, data_seed=0, seed=0)
    with pytest.raises(DataError, match=r"test 7 = 7 problems, but data.files.test hold 6"):
        make_splits(problems(60), SIZES, data_seed=0, seed=0, tests={"test": problems(6, "test")})


def test_an_id_that_stands_for_two_problems_is_refused():
    test = [Problem(id=p.id, prompt=f"other {p.prompt}", answer="1") for p in problems(7)]
    with pytest.raises(DataError, match=r"splits overlap in \d+ places: id 'q\d'"):
        make_splits(problems(43), SIZES, data_seed=0, seed=0, tests={"test": test})


def test_an_overlap_is_found_by_prompt_too():
    with pytest.raises(DataError, match="prompt 'a b' in labelled and test"):
        check_disjoint({"labelled": [Problem("1", "a b")], "test": [Problem("2", " a  b")]})


def test_the_published_training_pool_loses_its_known_duplicates():
    if not (SHARED / "dapo_math_17k.parquet").exists():
        pytest.skip("dapo_math_17k.parquet is not there (shared test data)")
    files = FilesConfig(
        train=str(SHARED / "dapo_math_17k.parquet"),
        answer_field="reward_model.ground_truth",
        id_field="extra_info.index",
    )
    pool = load_problems(files)
    splits = make_splits(pool, SplitSizes(labelled=15_000, test=100), data_seed=0, seed=0)
    assert splits.counts["unique_prompts"] == 17_188
    assert splits.counts["dropped_conflict"] >= 2 * splits.counts["conflicting_prompts"] > 0


def test_what_each_of_several_test_sets_keeps_out_of_training_is_counted():
    pool = problems(60)
    tests = {
        "first": [replace(p, id=f"first/{p.id}") for p in pool[:2]],
        "second": [*problems(8, "other"), replace(pool[5], id="second/5")],
    }
    splits = make_splits(pool, SIZES, data_seed=0, seed=0, tests=tests)
    assert (splits.counts["dropped_by_first"], splits.counts["dropped_by_second"]) == (2, 1)
    assert {p.id for p in splits.problems["test"]} <= {p.id for problems in tests.values() for p in problems}
