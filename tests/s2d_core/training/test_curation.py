"""Which of the teacher's rollouts are learned from, and how much of each."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Qwen3Config

from s2d_core.config.schema import VerifierConfig
from s2d_core.data.ledger import LabelLedger
from s2d_core.data.problems import Problem
from s2d_core.errors import StageError
from s2d_core.rollouts.types import Request, Rollout, Sampling
from s2d_core.training.curation import hard_problems, nearest, pass_rate_weights, pass_rates, right_ones
from s2d_core.training.policy import Policy
from s2d_core.training.verified import Grader

TEXTS = {1: "\\boxed{4}", 2: "\\boxed{5}", 3: "no box"}
PROBLEMS = [Problem(id="a", prompt="2+2=", answer="4"), Problem(id="b", prompt="2+3=", answer="5")]


def rollout(*tokens: int) -> Rollout:
    return Rollout("p", (1, 2), list(tokens), [-1.0] * len(tokens), "stop")


@pytest.fixture
def grader(tmp_path):
    """A real verifier; token t stands for ``TEXTS[t]``."""
    context = SimpleNamespace(spec=SimpleNamespace(id="warmup-x"), verifier=VerifierConfig())
    made = Grader(context, lambda ids: TEXTS[ids[0]], LabelLedger(tmp_path / "ledger.jsonl", 10))
    yield made
    made.close()


class Fixed:
    """An engine whose samples are given."""

    def generate(self, requests: list[Request], sampling: Sampling) -> list[list[Rollout]]:
        return [[rollout(1), rollout(1), rollout(2), rollout(3)] for _ in requests]


def test_pass_rates_are_shares_of_right_answers_and_every_look_is_charged(grader):
    requests = [Request(problem.id, (1,), 0) for problem in PROBLEMS]
    assert pass_rates(Fixed(), grader, PROBLEMS, requests, Sampling(4, 1.0, n=4)) == {"a": 0.5, "b": 0.25}
    assert grader.ledger.labels == 2


def test_only_right_rollouts_are_kept(grader):
    groups = [[rollout(1), rollout(2), rollout(3)], [rollout(1), rollout(2)]]
    kept = right_ones(grader, PROBLEMS, groups)
    assert [[each.completion_ids for each in group] for group in kept] == [[[1]], [[2]]]


def test_weights_are_p_times_one_minus_p_to_a_mean_of_one():
    assert pass_rate_weights({"a": 0.5, "b": 0.0, "c": 0.25}) == pytest.approx(
        {"a": 0.25 * 48 / 7, "b": 0.0, "c": 0.1875 * 48 / 7}
    )


@given(st.dictionaries(st.text(min_size=1), st.integers(0, 8).map(lambda n: n / 8), min_size=1))
def test_weights_average_to_one_or_the_stage_says_why_it_stops(rates):
    if all(rate in (0.0, 1.0) for rate in rates.values()):
        with pytest.raises(StageError, match="weighting = pass_rate"):
            pass_rate_weights(rates)
    else:
        weights = pass_rate_weights(rates)
        assert sum(weights.values()) / len(weights) == pytest.approx(1.0)
        assert all(weights[key] == 0.0 for key, rate in rates.items() if rate in (0.0, 1.0))


def test_hard_problems_are_those_passed_at_most_so_often():
    assert hard_problems(PROBLEMS, {"a": 0.5, "b": 0.125}, 0.125) == [PROBLEMS[1]]
    with pytest.raises(StageError, match=r"trek\.max_pass_rate = 0\.1: .*raise it"):
        hard_problems(PROBLEMS, {"a": 0.5, "b": 0.125}, 0.1)


def test_the_nearest_rollouts_have_the_highest_mean_log_probability_under_the_policy():
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        initializer_range=0.5,
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    groups = [[rollout(3, 4, 5), rollout(6), rollout(7, 8)], [rollout(9, 10), rollout(11, 12, 13, 14)], []]

    @torch.no_grad()
    def mean_logprob(each: Rollout) -> float:
        ids = torch.tensor([[*each.prompt_ids, *each.completion_ids]])
        logprobs = model(ids).logits[0].log_softmax(-1)[1:-1]
        return float(logprobs.gather(-1, torch.tensor(each.completion_ids)[:, None]).mean())

    expected = [sorted(group, key=mean_logprob, reverse=True)[:2] for group in groups]
    assert nearest(Policy(model), groups, 2, token_budget=6) == expected
