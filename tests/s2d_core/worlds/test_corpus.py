import numpy as np
import pytest

from s2d_core.config.inputs import ArithmeticConfig, SplitSizes
from s2d_core.worlds.corpus import make_corpus
from s2d_core.worlds.problems import make_splits
from s2d_core.worlds.tokenizer import make_tokenizer

TOKENIZER = make_tokenizer()
CORRECT = ArithmeticConfig(guess_share=0.0, skip_share=0.0, corrupt_share=0.0)


def texts(world, sequences=400, seed=0):
    for prompt, response in make_corpus(world, sequences, seed):
        assert prompt[0] == TOKENIZER.bos_token_id and response[-1] == TOKENIZER.eos_token_id
        yield tuple(TOKENIZER.decode(ids, skip_special_tokens=True) for ids in (prompt, response))


def worked(prompt):
    """The steps of the full correct response and that response, by plain Python."""
    value, steps, rest = int(prompt[:2]), [], prompt[2:-1]
    for symbol, digit in zip(rest[::2], rest[1::2], strict=True):
        value = {"+": value + int(digit), "-": value - int(digit), "*": value * int(digit)}[symbol] % CORRECT.modulus
        steps.append(f"{symbol}{digit}{value:02d}")
    return steps, "".join(steps) + f"\\boxed{{{value:02d}}}"


def test_without_imperfections_every_response_is_worked_out_correctly():
    for prompt, response in texts(CORRECT):
        assert response == worked(prompt)[1]


def test_guesses_show_no_work_and_are_rarely_right():
    pairs = list(texts(CORRECT.model_copy(update={"guess_share": 1.0}), 3000))
    assert all(response.startswith("\\boxed{") for _, response in pairs)
    right = np.mean([worked(prompt)[1].endswith(response) for prompt, response in pairs])
    assert right == pytest.approx(0.10 + 0.90 / CORRECT.modulus, abs=0.025)


def test_skipping_leaves_out_intermediate_steps_only_and_stays_right():
    skipped = 0
    for prompt, response in texts(CORRECT.model_copy(update={"skip_share": 1.0})):
        steps, full = worked(prompt)
        assert response.endswith(full[len("".join(steps[:-1])) :])
        skipped += response != full
    assert skipped > 200


def test_a_slip_is_carried_to_the_box():
    world = CORRECT.model_copy(update={"corrupt_share": 1.0, "corrupt_probability": 1.0})
    for prompt, response in texts(world):
        work, box = response.split("\\boxed{")
        assert box == work[-2:] + "}"
        assert work[:2] == prompt[2:4] and work[:4] != worked(prompt)[0][0]


def test_shares_are_kept():
    responses = [response for _, response in texts(ArithmeticConfig(), 4000)]
    assert np.mean([r.startswith("\\boxed{") for r in responses]) == pytest.approx(0.25, abs=0.03)


def test_a_seed_decides_the_corpus():
    assert list(texts(ArithmeticConfig(), 50, 3)) == list(texts(ArithmeticConfig(), 50, 3))
    assert list(texts(ArithmeticConfig(), 50, 3)) != list(texts(ArithmeticConfig(), 50, 4))


def test_no_corpus_prompt_is_a_problem_of_any_split():
    corpus = {prompt for prompt, _ in texts(ArithmeticConfig(), 20_000)}
    sizes = SplitSizes(labelled=500, held_out=500, unlabelled=5000, validation=1000, test=1000)
    for problems in make_splits(ArithmeticConfig(), sizes, 0, 0).values():
        assert not corpus & {problem.prompt for problem in problems}
