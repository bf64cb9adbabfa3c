"""The torch engine against the model it samples from."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import (
    EOS,
    TRUNCATIONS,
    completion_probabilities,
    exact_logprobs,
    goodness_of_fit,
    make_requests,
    tiny_model,
    truncated_logprobs,
)

from s2d_core.errors import RolloutError
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


@pytest.mark.parametrize("sampling", TRUNCATIONS, ids=str)
def test_sampled_frequencies_fit_the_model_s_probabilities(sampling):
    prompt, n = (5, 9, 14), 4000
    (group,) = TorchEngine(tiny_model(), EOS, n).generate([Request("a", prompt, 7)], replace(sampling, n=n))
    assert goodness_of_fit(group, completion_probabilities(tiny_model(), prompt, sampling)) > 1e-3


@pytest.mark.parametrize("sampling", TRUNCATIONS, ids=str)
def test_log_probabilities_are_of_the_distribution_sampled_from(sampling):
    model = tiny_model()
    for group in TorchEngine(tiny_model(), EOS).generate(make_requests(20), replace(sampling, max_tokens=8, n=2)):
        for rollout in group:
            assert rollout.logprobs == pytest.approx(truncated_logprobs(model, rollout, sampling), abs=1e-4)


def test_groups_larger_than_a_batch_are_sampled_whole():
    groups = TorchEngine(tiny_model(), EOS, batch_size=2).generate(make_requests(3), Sampling(max_tokens=4, n=5))
    assert [len(group) for group in groups] == [5, 5, 5]


def test_a_model_in_training_is_sampled_from_as_it_is_and_stays_trainable():
    model = tiny_model().train()
    engine = TorchEngine(model, EOS)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(2):
        for group in engine.generate(make_requests(5), Sampling(max_tokens=6)):
            assert group[0].logprobs == pytest.approx(exact_logprobs(model, group[0]), abs=1e-4)
        assert model.training
        ids = torch.tensor([[5, 6, 7]])
        model(ids, labels=ids).loss.backward()
        optimiser.step()
        engine.load_weights(model.named_parameters())  # the very same tensors


def test_new_weights_are_used_from_the_next_generation_on():
    engine, other = TorchEngine(tiny_model(), EOS), tiny_model(seed=1)
    engine.load_weights(other.named_parameters())
    for group in engine.generate(make_requests(5), Sampling(max_tokens=6)):
        assert group[0].logprobs == pytest.approx(exact_logprobs(other, group[0]), abs=1e-4)


def test_a_state_dict_with_its_tied_names_is_loaded_too():
    engine, other = TorchEngine(tiny_model(), EOS), tiny_model(seed=1)
    engine.load_weights(other.state_dict().items())
    torch.testing.assert_close(engine.model.state_dict(), other.state_dict())


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("nothing", (1,), "weight nothing .* no such parameter"),
        ("model.norm.weight", (1,), r"model.norm.weight of shape \(1,\) .* has shape \(64,\)"),
    ],
)
def test_weights_of_an_unknown_name_or_another_shape_are_refused(name, shape, message):
    with pytest.raises(RolloutError, match=message):
        TorchEngine(tiny_model(), EOS).load_weights([(name, torch.zeros(shape))])


def test_weights_that_do_not_cover_the_model_are_refused():
    partial = [pair for pair in tiny_model().named_parameters() if pair[0] != "model.norm.weight"]
    with pytest.raises(RolloutError, match=r"1 of the model's weights .* model\.norm\.weight"):
        TorchEngine(tiny_model(), EOS).load_weights(partial)


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
