"""The imperfect corpus the small world's base models are pretrained on: worked chains, many of them bad.

A response restates each operation with the value after it, then the box: ``+825*315-609\\boxed{09}<eos>``. Some
responses guess without working, skip steps, or go wrong on the way and carry the error on. So a pretrained model
has the skill somewhere in its distribution but does not use it reliably: that is for the verifier's reward to
sharpen. Operations are restated because a model then learns single operations rather than counting positions
in the prompt, with a fraction of the sequences.
"""

from collections.abc import Sequence

import numpy as np

from s2d_core.config.inputs import ArithmeticConfig
from s2d_core.worlds import arithmetic
from s2d_core.worlds.tokenizer import BOX, DIGIT_IDS, EOS, NUMBER_IDS, OPERATION_IDS, TOKEN_IDS

_GUESSED_RIGHT = 0.10  # share of the guesses
_SKIPPED = 0.50  # chance of each intermediate step to be left out, in the responses that skip


class Corpus(Sequence[tuple[np.ndarray, np.ndarray]]):
    """(prompt ids, response ids) pairs: BOS opens the prompt, EOS closes the response."""

    def __init__(self, prompts: tuple[np.ndarray, np.ndarray], responses: tuple[np.ndarray, np.ndarray]) -> None:
        """Each pair: all sequences' ids end to end, and where each sequence ends."""
        self._prompts, self._prompt_ends = prompts
        self._responses, self._response_ends = responses

    def __len__(self) -> int:
        return len(self._prompt_ends)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(f"sequence {index} of a corpus of {len(self)}")
        return (
            _slice(self._prompts, self._prompt_ends, index),
            _slice(self._responses, self._response_ends, index),
        )


def make_corpus(world: ArithmeticConfig, sequences: int, seed: int) -> Corpus:
    """``sequences`` pairs whose prompts come from the corpus territory of prompt space, in random order."""
    rng = np.random.default_rng([3, seed])
    lengths = dict.fromkeys(range(world.corpus_min_operations, world.corpus_max_operations + 1), 1.0)
    chains = arithmetic.draw(rng, sequences, "corpus", lengths, world.modulus)
    prompts, prompt_lengths = arithmetic.prompt_ids(chains)
    in_prompt = np.arange(prompts.shape[1]) < prompt_lengths[:, None]
    responses, kept = _respond(world, chains, rng)
    return Corpus((prompts[in_prompt], prompt_lengths.cumsum()), (responses[kept], kept.sum(axis=1).cumsum()))


def _respond(
    world: ArithmeticConfig, chains: arithmetic.Chains, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Response ids ``[n, 3·k + 4]`` and which of them to keep."""
    n, k = chains.operations.shape
    bounds = np.cumsum([world.guess_share, world.skip_share, world.corrupt_share])
    kind = np.searchsorted(bounds, rng.random(n), side="right")
    guesses, skips, corrupts = (kind == which for which in range(3))

    slipped = (rng.random((n, k)) < world.corrupt_probability) & corrupts[:, None]
    values = arithmetic.work_out(chains, slipped * rng.integers(1, world.modulus, size=(n, k)))
    final = values[np.arange(n), chains.length - 1]
    guessed_wrong = guesses & (rng.random(n) >= _GUESSED_RIGHT)
    final = np.where(guessed_wrong, rng.integers(0, world.modulus, size=n), final)

    # An intermediate step is skipped, the last one before the box never is.
    step = np.arange(k)
    shown = (step < chains.length[:, None]) & ~guesses[:, None]
    intermediate = step < chains.length[:, None] - 1
    shown &= ~(skips[:, None] & intermediate & (rng.random((n, k)) < _SKIPPED))

    steps = np.empty((n, k, 3), dtype=np.int64)
    steps[:, :, 0] = OPERATION_IDS[chains.operations]
    steps[:, :, 1] = DIGIT_IDS[chains.digits]
    steps[:, :, 2] = NUMBER_IDS[values]
    box = np.empty((n, 4), dtype=np.int64)
    box[:, 0], box[:, 2], box[:, 3] = TOKEN_IDS[BOX], TOKEN_IDS["}"], TOKEN_IDS[EOS]
    box[:, 1] = NUMBER_IDS[final]
    ids = np.concatenate([steps.reshape(n, 3 * k), box], axis=1)
    kept = np.concatenate([shown.repeat(3, axis=1), np.ones((n, 4), dtype=bool)], axis=1)
    return ids, kept


def _slice(ids: np.ndarray, ends: np.ndarray, index: int) -> np.ndarray:
    return ids[ends[index - 1] if index else 0 : ends[index]]
