"""What packing and dealing save: tokens that no sequence owns, and how long ranks wait for the longest of them.

    python benchmarks/packing.py [--prompts 64] [--group 8] [--limit 16384] [--repeats 5]

Completions' lengths are log-normal, a whole prompt's alike, cut at the limit, as rollouts of reasoning models are.
``padded``: batches of sequences next to each other in length, padded to the longest. ``round_robin``: every rank packs
the prompts that it sampled. ``dealt``: sequences are dealt anew over all ranks. ``slowest_over_mean``: tokens of the
longest micro-batch of a round over the mean of all ranks, summed over rounds: 1 is no waiting. ``exchange``: what it
costs to let every rank know all sequences.
"""

import argparse
import pickle
import random
import time
from collections.abc import Callable
from functools import partial
from itertools import chain

from recording import record, spread

from s2d_core.training.packing import Example, deal, split_by_tokens

RANKS = (2, 4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--limit", type=int, default=16_384, help="tokens of a sequence, and of a micro-batch")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    batches = [rollouts(seed, arguments.prompts, arguments.group, arguments.limit) for seed in range(arguments.repeats)]
    settings = {"prompts": arguments.prompts, "group": arguments.group, "limit": arguments.limit}
    waits = {
        f"{ranks} ranks": {
            "round_robin": spread([wait(round_robin(b, arguments.limit, ranks)) for b in batches]),
            "dealt": spread([wait(dealt(b, arguments.limit, ranks)) for b in batches]),
        }
        for ranks in RANKS
    }
    record(
        "packing",
        {
            **settings,
            "tokens": spread([sum(map(sum, batch)) for batch in batches]),
            "tokens_owned": {
                "padded": spread([padded(batch, arguments.limit) for batch in batches]),
                "packed": spread([packed(batch, arguments.limit) for batch in batches]),
            },
            "slowest_over_mean": waits,
            "seconds_to_deal_8_ranks": spread([clocked(partial(dealt, b, arguments.limit, 8)) for b in batches]),
            "exchange": exchange(batches[0]),
        },
    )


def rollouts(seed: int, prompts: int, group: int, limit: int) -> list[list[int]]:
    """Lengths of each prompt's group."""
    draw = random.Random(seed)
    levels = [draw.gauss(7.6, 0.7) for _ in range(prompts)]  # a median of 2000 tokens
    return [[min(limit, 64 + int(2.718 ** draw.gauss(level, 0.5))) for _ in range(group)] for level in levels]


def padded(batch: list[list[int]], limit: int) -> float:
    """Share of computed tokens that a sequence owns when each micro-batch is padded to its longest sequence."""
    lengths, computed, members = sorted(chain.from_iterable(batch)), 0, 0
    for index, length in enumerate(lengths):
        if (members + 1) * length > limit and members:
            computed, members = computed + members * lengths[index - 1], 0
        members += 1
    return sum(lengths) / (computed + members * lengths[-1])


def packed(batch: list[list[int]], limit: int) -> float:
    """Share of the micro-batches' budget that is filled. What is not filled is not computed."""
    lengths = list(chain.from_iterable(batch))
    return sum(lengths) / (limit * len(split_by_tokens(lengths, limit)))


def round_robin(batch: list[list[int]], limit: int, ranks: int) -> list[list[int]]:
    """Tokens of each micro-batch of each rank."""
    shares = [list(chain.from_iterable(batch[rank::ranks])) for rank in range(ranks)]
    return [[sum(share[i] for i in group) for group in split_by_tokens(share, limit)] for share in shares]


def dealt(batch: list[list[int]], limit: int, ranks: int) -> list[list[int]]:
    lengths = list(chain.from_iterable(batch))
    return [[sum(lengths[i] for i in group) for group in share] for share in deal(lengths, limit, ranks)]


def wait(loads: list[list[int]]) -> float:
    rounds = max(map(len, loads))
    slowest = sum(max(share[i] if i < len(share) else 0 for share in loads) for i in range(rounds))
    return slowest * len(loads) / sum(map(sum, loads))


def exchange(batch: list[list[int]]) -> dict[str, float]:
    """Bytes of one batch's sequences as they travel, and the CPU seconds to write and read them."""
    examples = [Example([7] * 64, [151_000] * (n - 64), [-0.123456789] * (n - 64)) for n in chain.from_iterable(batch)]
    data = pickle.dumps(examples)
    return {
        "mib": len(data) / 2**20,
        "seconds_to_write": clocked(lambda: pickle.dumps(examples)),
        "seconds_to_read": clocked(lambda: pickle.loads(data)),
    }


def clocked(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
