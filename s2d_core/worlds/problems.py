"""The small world's five splits as problems with ids, drawn so that no prompt is in two of them."""

import numpy as np

from s2d_core.config.inputs import ArithmeticConfig, Split, SplitSizes
from s2d_core.data.problems import Problem
from s2d_core.errors import DataError
from s2d_core.worlds import arithmetic

_DRAWN_AT_ONCE = 4096


def make_splits(world: ArithmeticConfig, sizes: SplitSizes, data_seed: int, seed: int) -> dict[Split, list[Problem]]:
    """Five lists of distinct problems; lengths of chains are uniform between the world's bounds.

    Test and validation depend on ``data_seed`` alone; labelled, held-out and unlabelled problems vary with
    (``data_seed``, ``seed``). Prompts differ between test, validation and the rest because these come from
    disjoint territories of prompt space, and between the last three because one draw of distinct prompts is
    cut in three.
    Raises DataError if the prompt space is too small for the sizes asked for.
    """
    held_out_end = sizes.labelled + sizes.held_out
    train = _distinct(world, np.random.default_rng([data_seed, 2, seed]), held_out_end + sizes.unlabelled, "train")
    return {
        "labelled": train[: sizes.labelled],
        "held_out": train[sizes.labelled : held_out_end],
        "unlabelled": [Problem(p.id, p.prompt, None, p.level) for p in train[held_out_end:]],
        "validation": _distinct(world, np.random.default_rng([data_seed, 1]), sizes.validation, "validation"),
        "test": _distinct(world, np.random.default_rng([data_seed, 0]), sizes.test, "test"),
    }


def _distinct(world: ArithmeticConfig, rng: np.random.Generator, count: int, territory: str) -> list[Problem]:
    """``count`` problems with different prompts, in the order drawn; a smaller count gives a prefix."""
    lengths = dict.fromkeys(range(world.min_operations, world.max_operations + 1), 1.0)
    problems: dict[str, Problem] = {}
    for _ in range(20 + 4 * count // _DRAWN_AT_ONCE):
        chains = arithmetic.draw(rng, _DRAWN_AT_ONCE, territory, lengths, world.modulus)
        rows = zip(arithmetic.prompt_texts(chains), arithmetic.answers(chains), chains.length, strict=True)
        for prompt, answer, length in rows:
            if len(problems) >= count:
                return list(problems.values())
            problems.setdefault(prompt, Problem(prompt.rstrip("="), prompt, f"{answer:02d}", int(length)))
    raise DataError(
        f"the {territory} problems of this small world ran out: {len(problems)} different ones found, "
        f"{count} asked for; raise data.arithmetic.max_operations or lower data.splits"
    )
