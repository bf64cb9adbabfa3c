"""The fleet on a real Ray cluster: order, replacement of dead workers, time limits that name the worker."""

import os
import signal
import threading
import time
from functools import partial

import pytest
import torch
from tiny_models import EOS, exact_logprobs, make_requests, tiny_model

from s2d_core.errors import RolloutError
from s2d_core.rollouts.fleet import Fleet
from s2d_core.rollouts.torch_engine import TorchEngine
from s2d_core.rollouts.types import Sampling

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]
LIMITS = {"timeout_s": 60.0, "sync_timeout_s": 60.0, "max_restarts": 2, "cpus": 0.0}
SAMPLING = Sampling(max_tokens=10, n=2)


class Slow:
    """A torch engine that takes its time where told to."""

    def __init__(self, generate_s: float = 0.0, load_s: float = 0.0, start_s: float = 0.0) -> None:
        time.sleep(start_s)
        self.engine, self.generate_s, self.load_s = TorchEngine(tiny_model(), EOS), generate_s, load_s

    def generate(self, requests, sampling):
        time.sleep(self.generate_s)
        return self.engine.generate(requests, sampling)

    def load_weights(self, weights):
        time.sleep(self.load_s)
        self.engine.load_weights(weights)

    def close(self):
        self.engine.close()


@pytest.fixture
def fleet_of():
    made = []

    def make(factory, workers=2, **limits):
        made.append(Fleet(factory, workers, **(LIMITS | limits)))
        return made[-1]

    yield make
    for fleet in made:
        fleet.close()


@pytest.fixture(scope="module")
def three(cluster):
    """A fleet of three that nothing happens to."""
    fleet = Fleet(Slow, 3, **LIMITS)
    yield fleet
    fleet.close()


def expected(requests, model=None):
    return TorchEngine(model or tiny_model(), EOS).generate(requests, SAMPLING)


def test_a_fleet_returns_what_one_engine_would_in_the_order_asked(three):
    requests = make_requests(17)
    groups = three.generate(requests, SAMPLING)
    assert [[r.completion_ids for r in g] for g in groups] == [
        [r.completion_ids for r in g] for g in expected(requests)
    ]
    assert [group[0].problem_id for group in groups] == [request.problem_id for request in requests]


def test_fewer_requests_than_workers_are_no_problem(three):
    assert len(three.generate(make_requests(1), SAMPLING)) == 1


def test_new_weights_reach_every_worker(three):
    other = tiny_model(seed=1)
    three.load_weights(other.named_parameters())
    for group in three.generate(make_requests(6), SAMPLING):
        assert group[0].logprobs == pytest.approx(exact_logprobs(other, group[0]), abs=1e-4)


def test_a_worker_killed_while_sampling_is_replaced_with_current_weights_and_its_share_is_issued_again(fleet_of):
    fleet, other, requests = fleet_of(partial(Slow, generate_s=3.0)), tiny_model(seed=1), make_requests(8)
    fleet.load_weights(other.named_parameters())
    victim = fleet.pids()[1]
    threading.Timer(1.0, os.kill, (victim, signal.SIGKILL)).start()
    groups = fleet.generate(requests, SAMPLING)
    wanted = expected(requests, other)
    assert [[r.completion_ids for r in g] for g in groups] == [[r.completion_ids for r in g] for g in wanted]
    assert victim not in fleet.pids()


def test_a_worker_that_dies_once_too_often_is_named(fleet_of):
    fleet = fleet_of(Slow, workers=1, max_restarts=0)
    os.kill(fleet.pids()[0], signal.SIGKILL)
    with pytest.raises(RolloutError, match=r"rollout worker 0 died .*max_restarts"):
        fleet.generate(make_requests(2), SAMPLING)


def test_a_sync_that_does_not_answer_fails_in_time_and_names_the_worker(fleet_of):
    fleet = fleet_of(partial(Slow, load_s=60.0), workers=1, sync_timeout_s=2.0)
    fleet.pids()  # up and running
    began = time.monotonic()
    with pytest.raises(RolloutError, match=r"rollout worker 0: no weights loaded within .* = 2 s"):
        fleet.load_weights(tiny_model().named_parameters())
    assert time.monotonic() - began < 30.0


def test_an_engine_that_is_slow_to_start_is_not_taken_for_a_sync_that_hangs(fleet_of):
    fleet, other = fleet_of(partial(Slow, start_s=6.0), workers=1, sync_timeout_s=5.0), tiny_model(seed=1)
    fleet.load_weights(other.named_parameters())
    for group in fleet.generate(make_requests(2), SAMPLING):
        assert group[0].logprobs == pytest.approx(exact_logprobs(other, group[0]), abs=1e-4)


def test_an_engine_that_does_not_start_fails_in_time_and_names_the_worker(fleet_of):
    fleet = fleet_of(partial(Slow, start_s=60.0), workers=1, timeout_s=2.0)
    with pytest.raises(RolloutError, match=r"rollout worker 0: not started within .* = 2 s"):
        fleet.load_weights(tiny_model().named_parameters())


def no_engine():
    raise FileNotFoundError("there is no model here")


def test_an_engine_that_cannot_be_made_is_not_tried_again_and_its_error_is_told(fleet_of):
    fleet = fleet_of(no_engine, workers=1)
    with pytest.raises(RolloutError, match=r"rollout worker 0: its engine cannot be made: .*there is no model here"):
        fleet.generate(make_requests(1), SAMPLING)


def test_a_worker_killed_while_weights_are_loaded_is_replaced_by_one_that_has_them(fleet_of):
    fleet, other = fleet_of(partial(Slow, load_s=2.0)), tiny_model(seed=1)
    victim = fleet.pids()[0]
    threading.Timer(1.0, os.kill, (victim, signal.SIGKILL)).start()
    fleet.load_weights(other.named_parameters())
    assert victim not in fleet.pids()
    for group in fleet.generate(make_requests(4), SAMPLING):
        assert group[0].logprobs == pytest.approx(exact_logprobs(other, group[0]), abs=1e-4)


def test_a_generation_that_does_not_answer_fails_in_time_and_names_the_worker(fleet_of):
    fleet = fleet_of(partial(Slow, generate_s=30.0), workers=1, timeout_s=2.0)
    fleet.pids()
    with pytest.raises(RolloutError, match=r"rollout worker 0: no rollouts within .* = 2 s"):
        fleet.generate(make_requests(2), SAMPLING)


def test_bfloat16_weights_survive_the_way_through_shared_memory():
    from s2d_core.rollouts.actor import _tensor, to_shared

    value = torch.randn(3, 5).bfloat16()
    assert torch.equal(_tensor(to_shared([("w", value)])["w"]), value)
