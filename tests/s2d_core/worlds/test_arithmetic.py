from itertools import pairwise

import numpy as np
import pytest

from s2d_core.worlds import arithmetic

LENGTHS = {2: 1.0, 3: 1.0, 4: 1.0}


def chains(territory="train", seed=0, count=500, modulus=100):
    return arithmetic.draw(np.random.default_rng(seed), count, territory, LENGTHS, modulus)


def by_hand(prompt: str, modulus: int) -> int:
    value, rest = int(prompt[:2]), prompt[2:-1]
    for symbol, digit in zip(rest[::2], rest[1::2], strict=True):
        value = {"+": value + int(digit), "-": value - int(digit), "*": value * int(digit)}[symbol] % modulus
    return value


@pytest.mark.parametrize("modulus", [30, 100])
def test_answers_are_what_the_prompts_say_from_left_to_right(modulus):
    drawn = chains(modulus=modulus)
    assert drawn.start.max() < modulus
    assert [by_hand(text, modulus) for text in arithmetic.prompt_texts(drawn)] == arithmetic.answers(drawn).tolist()


def test_a_seed_decides_the_chains():
    texts = arithmetic.prompt_texts(chains(seed=4))
    assert texts == arithmetic.prompt_texts(chains(seed=4))
    assert texts != arithmetic.prompt_texts(chains(seed=5))


def test_levels_are_numbers_of_operations_in_the_asked_proportions():
    drawn = arithmetic.draw(np.random.default_rng(0), 3000, "train", {3: 3.0, 5: 1.0}, 30)
    assert set(drawn.length) == {3, 5}
    assert np.mean(drawn.length == 3) == pytest.approx(0.75, abs=0.04)
    assert all(len(text) == 3 + 2 * k for text, k in zip(arithmetic.prompt_texts(drawn), drawn.length, strict=True))


def test_territories_never_share_a_prompt():
    prompts = {name: set(arithmetic.prompt_texts(chains(name, count=20_000))) for name in arithmetic.TERRITORIES}
    names = list(prompts)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            assert not prompts[first] & prompts[second]


def test_territories_are_disjoint_intervals_that_cover_prompt_space():
    bounds = sorted(arithmetic.TERRITORIES.values())
    assert bounds[0][0] == 0 and bounds[-1][1] == 16
    assert all(left[1] == right[0] for left, right in pairwise(bounds))


def test_a_prompts_territory_does_not_depend_on_the_padding_around_it():
    drawn = arithmetic.draw(np.random.default_rng(0), 100, "train", {2: 1.0, 6: 1.0}, 30)
    short = drawn[drawn.length == 2]
    trimmed = arithmetic.Chains(short.start, short.operations[:, :2], short.digits[:, :2], short.length, 30)
    assert np.array_equal(arithmetic.prompt_hash(short), arithmetic.prompt_hash(trimmed))


def test_a_slip_is_carried_on():
    drawn = chains()
    slips = np.zeros(drawn.operations.shape, dtype=int)
    slips[:, 0] = 7
    right, carried = arithmetic.work_out(drawn), arithmetic.work_out(drawn, slips)
    assert (right[:, 0] != carried[:, 0]).all()
    again = arithmetic.apply(carried[:, 0], drawn.operations[:, 1], drawn.digits[:, 1], 100)
    assert np.array_equal(carried[:, 1], again)
