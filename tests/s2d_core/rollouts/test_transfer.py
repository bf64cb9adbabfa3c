"""Weights from device to device: vLLM's own engines around a wire of this machine, and what may go wrong on the way."""

import json
import os
import signal
import threading
import time
from functools import partial

import pytest
import torch
from tiny_models import EOS, exact_logprobs, make_requests, tiny_model
from transfers import Noting, Receiving, in_calls, over_a_store, vllm_engine, waiting_without_end

from s2d_core.errors import RolloutError
from s2d_core.rollouts.actor import RolloutActor
from s2d_core.rollouts.fleet import Fleet
from s2d_core.rollouts.torch_engine import TorchEngine
from s2d_core.rollouts.transfer import ActorsClient, Transfer, parts
from s2d_core.rollouts.types import Request, Sampling

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.usefixtures("cluster")]
LIMITS = {"timeout_s": 300.0, "sync_timeout_s": 60.0, "max_restarts": 2, "cpus": 0.0}
SAMPLING = Sampling(max_tokens=10, n=2)
# Long enough for vLLM's prefix cache, one for each of two workers.
LONG = [Request(f"long{worker}", tuple(3 + index % 20 for index in range(150)), worker) for worker in range(2)]


@pytest.fixture
def fleet_of():
    made = []

    def make(factory=Receiving, workers=2, open_engine=in_calls, **limits):
        made.append(
            Fleet(factory, workers, transfer=Transfer(open_engine, tied=True, part=20_000), **(LIMITS | limits))
        )
        return made[-1]

    yield make
    for fleet in made:
        fleet.close()


def weights(seed):
    return tiny_model(seed=seed).named_parameters()


def ids(groups):
    return [[rollout.completion_ids for rollout in group] for group in groups]


def assert_samples_from(fleet, seed):
    model = tiny_model(seed=seed)
    for group in fleet.generate([*make_requests(8), *LONG], SAMPLING):
        for rollout in group:
            assert rollout.logprobs == pytest.approx(exact_logprobs(model, rollout), abs=1e-4)


def killing(pid, seed):
    """Weights on whose way the process of ``pid`` is killed."""
    for count, each in enumerate(weights(seed)):
        if count == 8:
            os.kill(pid, signal.SIGKILL)
        yield each


def test_vllm_s_engines_take_the_weights_and_one_that_takes_a_dead_one_s_place_takes_the_next(
    fleet_of, model_folder, tmp_path
):
    log = tmp_path / "steps"
    fleet = fleet_of(partial(vllm_engine, model_folder, log), open_engine=partial(over_a_store, 2))
    assert_samples_from(fleet, 0)  # and fills the prefix caches
    fleet.load_weights(weights(1))
    assert_samples_from(fleet, 1)
    assert steps(log) == {rank: ["init", "start", "update", "finish"] for rank in (1, 2)}
    assert log.read_text().count("1 update") > 5  # parts
    fleet.load_weights(weights(2))
    assert_samples_from(fleet, 2)
    assert steps(log) == {rank: ["init", *2 * ["start", "update", "finish"]] for rank in (1, 2)}

    victim = fleet.pids()[0]
    os.kill(victim, signal.SIGKILL)
    assert_samples_from(fleet, 2)  # the other does it all
    log.unlink()
    fleet.load_weights(weights(3))
    assert victim not in fleet.pids()
    assert_samples_from(fleet, 3)
    assert steps(log) == {rank: ["init", "start", "update", "finish"] for rank in (1, 2)}


def steps(log):
    """Of each rank, in order; of several parts after each other the first."""
    found = {}
    for line in log.read_text().splitlines():
        rank, step = line.split()
        of_rank = found.setdefault(int(rank), [])
        if of_rank[-1:] != [step]:
            of_rank.append(step)
    return found


def test_new_weights_reach_every_worker(fleet_of):
    fleet = fleet_of(workers=3)
    for seed in (1, 2):
        fleet.load_weights(weights(seed))
        assert_samples_from(fleet, seed)


def test_a_worker_killed_while_sampling_leaves_its_share_to_those_that_have_the_weights(fleet_of):
    fleet, requests = fleet_of(partial(Receiving, generate_s=3.0)), make_requests(9)
    fleet.load_weights(weights(1))
    victim = fleet.pids()[1]
    threading.Timer(1.0, os.kill, (victim, signal.SIGKILL)).start()
    groups = fleet.generate(requests, SAMPLING)
    assert ids(groups) == ids(TorchEngine(tiny_model(seed=1), EOS).generate(requests, SAMPLING))
    assert victim not in fleet.pids()
    assert_samples_from(fleet, 1)  # not from the folder's weights, which are all that the new one has
    fleet.load_weights(weights(2))
    assert_samples_from(fleet, 2)


def test_a_worker_killed_between_two_generations_is_replaced_before_the_weights_are_sent(fleet_of):
    fleet = fleet_of()
    fleet.load_weights(weights(1))
    victim = fleet.pids()[0]
    os.kill(victim, signal.SIGKILL)
    fleet.load_weights(weights(2))
    assert victim not in fleet.pids()
    assert_samples_from(fleet, 2)


def test_until_weights_are_transferred_a_replacement_has_what_the_dead_worker_had(fleet_of):
    fleet = fleet_of(workers=1)
    os.kill(fleet.pids()[0], signal.SIGKILL)
    assert_samples_from(fleet, 0)


def test_when_the_last_that_has_the_weights_dies_it_is_named(fleet_of):
    fleet = fleet_of(workers=1)
    fleet.load_weights(weights(1))
    os.kill(fleet.pids()[0], signal.SIGKILL)
    with pytest.raises(RolloutError, match="rollout worker 0 died, and no other is left that has the weights"):
        fleet.generate(make_requests(2), SAMPLING)


@pytest.mark.parametrize("open_engine", [in_calls, waiting_without_end])
def test_a_worker_killed_during_a_transfer_is_named_though_the_sender_waits_for_it(fleet_of, open_engine):
    fleet = fleet_of(open_engine=open_engine)
    with pytest.raises(RolloutError, match=r"rollout worker 1 got no weights, update_weights failed: .*died"):
        fleet.load_weights(killing(fleet.pids()[1], 1))


def test_a_call_that_is_not_answered_in_time_names_the_worker(fleet_of):
    fleet = fleet_of(partial(Receiving, slow="update_weights"), sync_timeout_s=2.0)
    began = time.monotonic()
    fleet.pids()
    with pytest.raises(RolloutError, match=r"rollout worker 0, rollout worker 1: no answer to update_weights .* = 2 s"):
        fleet.load_weights(weights(1))
    assert time.monotonic() - began < 45.0


@pytest.mark.parametrize("call", ["init_weight_transfer_engine", "start_weight_update", "finish_weight_update"])
def test_what_an_engine_cannot_do_is_told_with_its_worker_s_name(fleet_of, call):
    fleet = fleet_of(partial(Receiving, wrong=call), workers=1)
    with pytest.raises(RolloutError, match=f"rollout worker 0 got no weights, {call} failed: .*no room for weights"):
        fleet.load_weights(weights(1))


def test_vllm_s_protocol_is_the_client_s():
    from vllm.distributed.weight_transfer import VLLMWeightSyncClient

    assert isinstance(ActorsClient([], ranks_each=1, timeout_s=1.0), VLLMWeightSyncClient)


def test_each_actor_is_told_its_place_in_the_group_of_all_processes(tmp_path):
    import ray

    paths = [tmp_path / str(worker) for worker in range(3)]
    actors = [ray.remote(RolloutActor).options(num_cpus=0).remote(partial(Noting, path)) for path in paths]
    client = ActorsClient(actors, ranks_each=2, timeout_s=60.0)
    client.init_weight_transfer_engine({"rank_offset": 1, "world_size": 7})
    assert [json.loads(path.read_text()) for path in paths] == [
        ["init_weight_transfer_engine", {"rank_offset": offset, "world_size": 7}] for offset in (1, 3, 5)
    ]


def test_a_part_has_no_more_bytes_than_it_may_but_for_a_tensor_that_is_larger():
    sizes = [3, 5, 2, 20, 1, 9, 10]
    named = [(str(index), torch.zeros(size, dtype=torch.uint8)) for index, size in enumerate(sizes)]
    found = list(parts(iter(named), 10))
    assert [[value.nbytes for _, value in part] for part in found] == [[3, 5, 2], [20], [1, 9], [10]]
    assert [name for part in found for name, _ in part] == [name for name, _ in named]
