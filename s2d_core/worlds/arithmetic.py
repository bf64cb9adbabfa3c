"""Chains of operations modulo a small number, such as ``17+8*3-6=``: how to draw them, work them out and write them.

Vectorised over problems. A hash cuts the space of prompts into disjoint territories, and every user of
prompts draws from one territory only: no corpus prompt is ever a validation, test or label prompt.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from s2d_core.worlds.tokenizer import BOS, DIGIT_IDS, NUMBER_IDS, OPERATION_IDS, TOKEN_IDS, VOCABULARY

OPERATION_PROBABILITIES = (0.35, 0.35, 0.30)  # + - *
SMALLEST_DIGIT, LARGEST_DIGIT = 2, 9

# Sixteenths of the prompt space. Labelled, held-out and unlabelled prompts share "train".
TERRITORIES = {"test": (0, 1), "validation": (1, 2), "train": (2, 6), "corpus": (6, 16)}


@dataclass(frozen=True, slots=True)
class Chains:
    """A batch of problems. Columns at and beyond ``length`` are padding: operation 0, digit 0.

    start[n] below ``modulus``; operations[n, k] in 0..2 (+ - *); digits[n, k] in 2..9; length[n] operations in use.
    """

    start: Int[np.ndarray, "n"]
    operations: Int[np.ndarray, "n k"]
    digits: Int[np.ndarray, "n k"]
    length: Int[np.ndarray, "n"]
    modulus: int

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, index: np.ndarray | slice) -> "Chains":
        return Chains(self.start[index], self.operations[index], self.digits[index], self.length[index], self.modulus)


def draw(rng: np.random.Generator, count: int, territory: str, lengths: dict[int, float], modulus: int) -> Chains:
    """``count`` chains of one territory, with repetition. ``lengths``: number of operations → weight."""
    kept: list[Chains] = []
    low, high = TERRITORIES[territory]
    missing = count
    while missing > 0:
        chains = _draw_anywhere(rng, missing * 16 // (high - low) + 64, lengths, modulus)
        sixteenth = prompt_hash(chains) >> np.uint64(60)
        chains = chains[(sixteenth >= low) & (sixteenth < high)][:missing]
        kept.append(chains)
        missing -= len(chains)
    return Chains(
        np.concatenate([chains.start for chains in kept]),
        np.concatenate([chains.operations for chains in kept]),
        np.concatenate([chains.digits for chains in kept]),
        np.concatenate([chains.length for chains in kept]),
        modulus,
    )


def _draw_anywhere(rng: np.random.Generator, count: int, lengths: dict[int, float], modulus: int) -> Chains:
    choices = np.array(sorted(lengths))
    weights = np.array([lengths[choice] for choice in choices], dtype=float)
    length = rng.choice(choices, size=count, p=weights / weights.sum())
    used = np.arange(choices.max()) < length[:, None]
    operations = rng.choice(3, size=used.shape, p=OPERATION_PROBABILITIES)
    digits = rng.integers(SMALLEST_DIGIT, LARGEST_DIGIT + 1, size=used.shape)
    start = rng.integers(0, modulus, size=count)
    return Chains(start, operations * used, digits * used, length, modulus)


def prompt_hash(chains: Chains) -> np.ndarray:
    """A 64-bit hash of each prompt (splitmix64's finaliser, column by column); padding does not enter it."""
    state = _mix(chains.start.astype(np.uint64))
    for k in range(chains.operations.shape[1]):
        symbol = (chains.operations[:, k] * 10 + chains.digits[:, k] + 1).astype(np.uint64)
        state = np.where(chains.length > k, _mix(state ^ symbol), state)
    return state


def _mix(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def apply(values: np.ndarray, operations: np.ndarray, digits: np.ndarray, modulus: int) -> np.ndarray:
    """One operation on each value."""
    results = np.select([operations == 0, operations == 1], [values + digits, values - digits], values * digits)
    return results % modulus


def work_out(chains: Chains, slips: Int[np.ndarray, "n k"] | None = None) -> Int[np.ndarray, "n k"]:
    """The value after each operation. A slip is added to the value of its step and carried on."""
    values = np.empty(chains.operations.shape, dtype=np.int64)
    value = chains.start
    for k in range(chains.operations.shape[1]):
        value = apply(value, chains.operations[:, k], chains.digits[:, k], chains.modulus)
        if slips is not None:
            value = (value + slips[:, k]) % chains.modulus
        values[:, k] = value
    return values


def answers(chains: Chains) -> Int[np.ndarray, "n"]:
    """The value after the last operation in use."""
    return work_out(chains)[np.arange(len(chains)), chains.length - 1]


def prompt_ids(chains: Chains) -> tuple[Int[np.ndarray, "n p"], Int[np.ndarray, "n"]]:
    """Token ids of the prompts, BOS first, padded on the right, and their lengths."""
    n, k = chains.operations.shape
    ids = np.zeros((n, 3 + 2 * k), dtype=np.int64)
    ids[:, 0] = TOKEN_IDS[BOS]
    ids[:, 1] = NUMBER_IDS[chains.start]
    ids[:, 2:-1:2] = OPERATION_IDS[chains.operations]
    ids[:, 3:-1:2] = DIGIT_IDS[chains.digits]
    end = 2 + 2 * chains.length
    ids[np.arange(n), end] = TOKEN_IDS["="]
    ids[np.arange(ids.shape[1]) > end[:, None]] = 0
    return ids, end + 1


def prompt_texts(chains: Chains) -> list[str]:
    """The prompts as text, without BOS (the tokenizer adds it)."""
    ids, lengths = prompt_ids(chains)
    return ["".join(VOCABULARY[i] for i in row[1:length]) for row, length in zip(ids, lengths, strict=True)]
