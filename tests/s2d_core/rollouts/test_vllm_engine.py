"""vLLM against the torch engine and the model itself. One engine serves all of these tests: it is slow to start."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from tiny_models import (
    EOS,
    OTHER_STOPS,
    TRUNCATIONS,
    completion_probabilities,
    exact_logprobs,
    goodness_of_fit,
    make_requests,
    tiny_model,
    truncated_logprobs,
)

from s2d_core.config.schema import RolloutsConfig
from s2d_core.rollouts import make_engine
from s2d_core.rollouts.stragglers import cut
from s2d_core.rollouts.torch_engine import TorchEngine
from s2d_core.rollouts.types import Request, Sampling

pytestmark = [pytest.mark.slow, pytest.mark.vllm]


@pytest.fixture(scope="module")
def engine(model_folder):
    made = make_engine(model_folder, RolloutsConfig(engine="vllm"), eos_token_id=EOS, dtype="float32", max_length=192)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def original_weights(engine):
    engine.load_weights(tiny_model().named_parameters())


def test_log_probabilities_are_those_of_a_plain_forward_pass(engine):
    model = tiny_model()
    for group in engine.generate(make_requests(10), Sampling(max_tokens=10, n=2)):
        for rollout in group:
            assert rollout.logprobs == pytest.approx(exact_logprobs(model, rollout), abs=1e-4)


def test_greedy_completions_and_their_log_probabilities_are_the_torch_engine_s(engine):
    requests, greedy = make_requests(16), Sampling(max_tokens=10, temperature=0.0)
    ours = TorchEngine(tiny_model(), EOS).generate(requests, greedy)
    for (theirs,), (expected,) in zip(engine.generate(requests, greedy), ours, strict=True):
        assert theirs.completion_ids == expected.completion_ids
        assert theirs.finish_reason == expected.finish_reason
        assert theirs.logprobs == pytest.approx(expected.logprobs, abs=1e-4)


@pytest.mark.parametrize("sampling", TRUNCATIONS, ids=str)
def test_sampled_frequencies_fit_the_model_s_probabilities(engine, sampling):
    prompt, n = (5, 9, 14), 40
    requests = [Request(str(i), prompt, i) for i in range(50)]
    rollouts = [rollout for group in engine.generate(requests, replace(sampling, n=n)) for rollout in group]
    assert goodness_of_fit(rollouts, completion_probabilities(tiny_model(), prompt, sampling)) > 1e-3


@pytest.mark.parametrize("sampling", TRUNCATIONS, ids=str)
def test_log_probabilities_are_of_the_distribution_sampled_from(engine, sampling):
    model = tiny_model()
    for group in engine.generate(make_requests(20), replace(sampling, max_tokens=8, n=2)):
        for rollout in group:
            assert rollout.logprobs == pytest.approx(truncated_logprobs(model, rollout, sampling), abs=1e-4)


def test_neighbouring_seeds_share_no_draws(engine):
    requests = [Request(str(seed), (5, 9, 14), seed) for seed in range(2)]
    first, second = engine.generate(requests, Sampling(max_tokens=12, n=8))
    assert not {tuple(r.completion_ids) for r in first if len(r.completion_ids) > 5} & {
        tuple(r.completion_ids) for r in second
    }


def test_only_the_given_eos_ends_a_completion(engine):
    """The model folder's generation settings name further stop tokens, and a temperature."""
    rollouts = [r for group in engine.generate(make_requests(40), Sampling(max_tokens=12, n=4)) for r in group]
    assert any(token in OTHER_STOPS for rollout in rollouts for token in rollout.completion_ids[:-1])
    assert all(r.completion_ids[-1] == EOS or len(r.completion_ids) == 12 for r in rollouts)


def test_new_weights_are_used_at_once_and_no_cached_prefix_survives_them(engine):
    requests, greedy = [Request("a", tuple(range(3, 23)) * 2, 0)], Sampling(max_tokens=8, temperature=0.0)
    engine.generate(requests, greedy)  # fills the prefix cache
    other = tiny_model(seed=1)
    engine.load_weights(other.named_parameters())
    ((rollout,),) = engine.generate(requests, greedy)
    assert rollout.logprobs == pytest.approx(exact_logprobs(other, rollout), abs=1e-4)


@pytest.mark.parametrize("budget", [9, 1000])
def test_a_budget_cuts_a_group_where_it_would_cut_what_is_sampled_without_one_and_saves_the_steps(engine, budget):
    requests, sampling = make_requests(12), Sampling(max_tokens=30, n=4)
    whole = engine.generate(requests, sampling)
    steps = []
    (hook,) = engine._llm.apply_model(lambda model: model.register_forward_pre_hook(lambda *_: steps.append(1)))
    groups = engine.generate(requests, replace(sampling, group_tokens=budget))
    hook.remove()
    for group, uncut in zip(groups, whole, strict=True):
        wanted = cut(uncut, budget)
        assert [(r.completion_ids, r.finish_reason) for r in group] == [
            (r.completion_ids, r.finish_reason) for r in wanted
        ]
        for rollout, other in zip(group, wanted, strict=True):
            assert rollout.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    assert (len(steps) < 15) == (budget == 9)


def test_nothing_is_sampled_for_no_requests(engine):
    assert engine.generate([], Sampling(max_tokens=8)) == []


def test_an_engine_that_is_told_to_sleep_samples_the_same_once_it_has_weights_again(engine):
    requests, sampling = make_requests(12), Sampling(max_tokens=8, n=2)
    awake = engine.generate(requests, sampling)
    for _ in range(2):
        engine.sleep()
        engine.load_weights(tiny_model().named_parameters())
        assert engine.generate(requests, sampling) == awake


def test_more_prompts_than_fit_one_batch_are_completed_under_their_seeds(engine):
    requests = make_requests(1500)
    groups = engine.generate(requests, Sampling(max_tokens=3, n=2))
    assert [group[0].problem_id for group in groups] == [request.problem_id for request in requests]


def test_completions_include_eos_and_say_why_they_ended(engine):
    rollouts = [r for g in engine.generate(make_requests(20), Sampling(max_tokens=9, n=4)) for r in g]
    assert {rollout.finish_reason for rollout in rollouts} == {"stop", "length"}
    for rollout in rollouts:
        assert (rollout.completion_ids[-1] == EOS) == (rollout.finish_reason == "stop")
        assert len(rollout.logprobs) == len(rollout.completion_ids)


def test_the_seed_of_a_request_decides_its_completions(engine):
    request = Request("a", (5, 6), 11)
    assert engine.generate([request], Sampling(max_tokens=8, n=3)) == engine.generate(
        [request], Sampling(max_tokens=8, n=3)
    )


def test_the_top_tokens_of_a_served_teacher_are_those_of_a_colocated_one(engine):
    model, k = tiny_model(), 8
    rollouts = [group[0] for group in engine.generate(make_requests(12), Sampling(max_tokens=10))]
    for rollout, (ids, logprobs) in zip(rollouts, engine.top_logprobs(rollouts, k), strict=True):
        tokens = torch.tensor([[*rollout.prompt_ids, *rollout.completion_ids]])
        exact = torch.log_softmax(model(tokens).logits[0].detach(), -1)[len(rollout.prompt_ids) - 1 : -1].topk(k)
        torch.testing.assert_close(logprobs, exact.values, atol=1e-3, rtol=0)
        assert (ids == exact.indices).float().mean() > 0.95  # near ties may change places


def test_another_thread_may_sample_while_this_one_does_something_else(engine):
    requests, sampling = make_requests(6), Sampling(max_tokens=8, n=2)
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(engine.generate, requests, sampling).result() == engine.generate(requests, sampling)


def test_the_completions_of_a_group_share_their_prompt(engine):
    """Its full blocks, of 128 tokens on CPU, are read once and found in the cache from then on."""
    from vllm import SamplingParams

    prompt = tuple(3 + index % 20 for index in range(150))
    engine.generate([Request("a", prompt, 0)], Sampling(max_tokens=2, n=4))
    once = SamplingParams(max_tokens=1, detokenize=False)
    (output,) = engine._llm.generate([{"prompt_token_ids": list(prompt)}], once, use_tqdm=False)
    assert output.num_cached_tokens == 128
