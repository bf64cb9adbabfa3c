from itertools import combinations

import pytest

from s2d_core.config.inputs import ArithmeticConfig, SplitSizes
from s2d_core.errors import DataError
from s2d_core.worlds.problems import make_splits

SIZES = SplitSizes(labelled=100, held_out=80, unlabelled=500, validation=120, test=150)
WORLD = ArithmeticConfig(min_operations=2, max_operations=4)


def splits(data_seed=0, seed=0, world=WORLD, sizes=SIZES):
    return make_splits(world, sizes, data_seed, seed)


def test_splits_have_the_sizes_asked_for_and_distinct_prompts_and_ids():
    made = splits()
    assert {name: len(problems) for name, problems in made.items()} == SIZES.model_dump()
    for problems in made.values():
        assert len({p.id for p in problems}) == len({p.prompt for p in problems}) == len(problems)
    for first, second in combinations(made.values(), 2):
        assert not {p.prompt for p in first} & {p.prompt for p in second}


def test_training_pools_of_any_seed_stay_clear_of_validation_and_test():
    evaluation = {p.prompt for name in ("validation", "test") for p in splits()[name]}
    for data_seed in range(3):
        for seed in range(3):
            made = splits(data_seed, seed)
            for name in ("labelled", "held_out", "unlabelled"):
                assert not evaluation & {p.prompt for p in made[name]}


def test_the_seed_changes_the_training_pools_but_not_validation_and_test():
    first, second = splits(seed=0), splits(seed=1)
    assert first["test"] == second["test"] and first["validation"] == second["validation"]
    for name in ("labelled", "held_out", "unlabelled"):
        assert {p.id for p in first[name]} != {p.id for p in second[name]}
    assert splits(data_seed=1)["test"] != first["test"]
    assert splits(seed=1) == second


def test_unlabelled_problems_carry_no_answer_and_all_others_do():
    made = splits()
    assert all(p.answer is None for p in made["unlabelled"])
    for name in ("labelled", "held_out", "validation", "test"):
        assert all(p.answer is not None and len(p.answer) == 2 for p in made[name])


def test_more_unlabelled_prompts_leave_the_labels_as_they_were():
    more = splits(sizes=SIZES.model_copy(update={"unlabelled": 900}))
    assert more["labelled"] == splits()["labelled"] and more["held_out"] == splits()["held_out"]


def test_a_prompt_space_that_is_too_small_is_an_error_that_says_what_to_change():
    tiny = ArithmeticConfig(min_operations=1, max_operations=1)
    with pytest.raises(DataError, match=r"test problems .* ran out.*max_operations"):
        splits(world=tiny, sizes=SplitSizes(labelled=10, test=1000))
