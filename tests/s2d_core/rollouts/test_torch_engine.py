"""The torch engine against the model it samples from."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from tiny_models import EOS, exact_logprobs, first_token_probabilities, make_requests, tiny_model

from s2d_core.rollouts.torch_engine import TorchEngine, processed_logprobs
from s2d_core.rollouts.types import Request, Sampling


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_log_probabilities_are_those_of_a_plain_forward_pass(family):
    model = tiny_model(family)
    groups = TorchEngine(tiny_model(family), EOS).generate(make_requests(12), Sampling(max_tokens=12, n=3))
    for rollout in (rollout for group in groups for rollout in group):
        assert rollout.logprobs == pytest.approx(exact_logprobs(model, rollout), abs=1e-4)


def test_greedy_completions_follow_the_likeliest_token():
    model = tiny_model()
    for (rollout,) in TorchEngine(tiny_model(), EOS).generate(
        make_requests(8), Sampling(max_tokens=6, temperature=0.0)
    ):
        ids = list(rollout.prompt_ids)
        for token in rollout.completion_ids:
            assert token == int(model(torch.tensor([ids])).logits[0, -1].argmax())
            ids.append(token)


def test_completions_do_not_depend_on_batching_sharding_or_order():
    requests, sampling = make_requests(20), Sampling(max_tokens=10, n=2)
    engine = TorchEngine(tiny_model(), EOS)
    together = engine.generate(requests, sampling)
    small = TorchEngine(tiny_model(), EOS, batch_size=3).generate(requests, sampling)
    sharded = engine.generate(requests[::2], sampling), engine.generate(requests[1::2][::-1], sampling)[::-1]
    ids = [[rollout.completion_ids for rollout in group] for group in together]
    assert [[r.completion_ids for r in group] for group in small] == ids
    assert [[r.completion_ids for r in group] for group in sharded[0]] == ids[::2]
    assert [[r.completion_ids for r in group] for group in sharded[1]] == ids[1::2]


def test_the_seed_of_a_request_decides_its_completions():
    engine, sampling = TorchEngine(tiny_model(), EOS), Sampling(max_tokens=8, n=4)
    same, other = Request("a", (5, 6), 1), Request("a", (5, 6), 2)
    first, again, different = (engine.generate([request], sampling)[0] for request in (same, same, other))
    assert first == again
    assert first != different


def test_completions_end_with_eos_or_at_the_limit():
    groups = TorchEngine(tiny_model(), EOS).generate(make_requests(30), Sampling(max_tokens=9, n=4))
    reasons = set()
    for rollout in (rollout for group in groups for rollout in group):
        reasons.add(rollout.finish_reason)
        assert EOS not in rollout.completion_ids[:-1]
        assert len(rollout.logprobs) == len(rollout.completion_ids)
        if rollout.finish_reason == "stop":
            assert rollout.completion_ids[-1] == EOS
        else:
            assert len(rollout.completion_ids) == 9
    assert reasons == {"stop", "length"}


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_sampled_frequencies_fit_the_model_s_probabilities(temperature):
    model, prompt, n = tiny_model(), (5, 9, 14), 4000
    (group,) = TorchEngine(tiny_model(), EOS, n).generate(
        [Request("a", prompt, 7)], Sampling(max_tokens=1, temperature=temperature, n=n)
    )
    counts = torch.bincount(torch.tensor([r.completion_ids[0] for r in group]), minlength=24).double()
    powered = first_token_probabilities(model, prompt) ** (1.0 / temperature)
    expected = n * powered / powered.sum()
    common = expected >= 5
    observed = torch.cat([counts[common], counts[~common].sum()[None]])
    wanted = torch.cat([expected[common], expected[~common].sum()[None]])
    assert chisquare(observed.numpy(), (wanted * observed.sum() / wanted.sum()).numpy()).pvalue > 1e-3


def test_new_weights_are_used_from_the_next_generation_on():
    engine, other = TorchEngine(tiny_model(), EOS), tiny_model(seed=1)
    engine.load_weights(other.named_parameters())
    for group in engine.generate(make_requests(5), Sampling(max_tokens=6)):
        assert group[0].logprobs == pytest.approx(exact_logprobs(other, group[0]), abs=1e-4)


def test_weights_of_an_unknown_name_are_refused():
    with pytest.raises(KeyError, match="nothing"):
        TorchEngine(tiny_model(), EOS).load_weights([("nothing", torch.zeros(1))])


def test_no_requests_give_no_rollouts():
    assert TorchEngine(tiny_model(), EOS).generate([], Sampling(max_tokens=3)) == []


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.integers(0, 1000))
def test_top_k_keeps_the_k_likeliest_tokens_in_their_proportions(k, seed):
    logits = torch.randn(4, 8, generator=torch.Generator().manual_seed(seed))
    kept = processed_logprobs(logits, Sampling(1, top_k=k)).exp()
    assert (kept > 0).sum(1).tolist() == [k] * 4
    torch.testing.assert_close(kept.sum(1), torch.ones(4))
    plain = torch.softmax(logits, -1)
    torch.testing.assert_close(kept, torch.where(kept > 0, plain, 0) / plain.topk(k).values.sum(1, keepdim=True))


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    for p, expected in ((0.4, 1), (0.5, 1), (0.6, 2), (0.79, 2), (0.9, 3), (1.0, 4)):
        assert int((processed_logprobs(logits, Sampling(1, top_p=p)) > -torch.inf).sum()) == expected, p
