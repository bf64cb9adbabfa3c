"""Two ranks and rank 0's fleet: the rollouts of one rank with one engine, and rank 0's errors on both."""

import os
import pickle
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

import pytest
from ranks import with_another
from tiny_geometries import model

from s2d_core.config.schema import RolloutsConfig
from s2d_core.errors import RolloutError
from s2d_core.rollouts import make_engine
from s2d_core.rollouts.types import Request, Sampling
from s2d_core.training import parallel
from s2d_core.training.shared_engine import SharedEngine, generate_all

pytestmark = pytest.mark.slow
SAMPLING = Sampling(max_tokens=8, n=2)
REQUESTS = [Request(f"p{i}", tuple(range(3, 4 + i % 5)), seed=i) for i in range(9)]
OTHERS = [Request(f"q{i}", (5, 6, 7 + i), seed=i) for i in range(3)]


def sharpened(seed):
    """Weights far from uniform, so that whose samples they are can be told."""
    return [(name, 4 * value) for name, value in model("qwen3", seed).named_parameters()]


def engine(root, **config):
    return make_engine(root / "model", RolloutsConfig(**config), eos_token_id=2, dtype="float32", max_length=64)


class Refusing:
    """Takes one of the weights and fails."""

    def load_weights(self, weights):
        next(iter(weights))
        raise RolloutError("no room")

    def close(self):
        pass


def gathered():
    """Weights as sharded ones come: each when all ranks take it."""
    for name, value in sharpened(1):
        parallel.barrier()
        yield name, value


def what_two_do(root) -> None:
    """Leaves what each rank was given in ``root``."""
    shared = SharedEngine(partial(engine, root, workers=2, max_restarts=1, cpus_per_worker=0.5))
    given = {}

    def ask(name, requests):
        given[name] = shared.generate(requests[parallel.rank() :: 2], SAMPLING)

    ask("first", REQUESTS)
    ask("one request, none of rank 1's", REQUESTS[:1])
    shared.load_weights(sharpened(1))
    ask("new weights", REQUESTS)
    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(ask, "beside collectives", REQUESTS)
        for _ in range(50):
            parallel.barrier()
        ahead.result()
    mine = (REQUESTS[:8], REQUESTS[8:])[parallel.rank()]  # two shards of rank 0's, one of rank 1's
    given["stored"] = generate_all(shared, mine, SAMPLING, root / "rollouts", shard=4)
    kill(shared)
    ask("after a death", REQUESTS)
    kill(shared)
    with pytest.raises(RolloutError) as error:
        ask("too many deaths", REQUESTS)
    given["error"] = str(error.value)
    with closing(SharedEngine(Refusing)) as refusing, pytest.raises(RolloutError) as error:
        refusing.load_weights(gathered())
    given["refused"] = str(error.value)
    (root / f"{parallel.rank()}.pickle").write_bytes(pickle.dumps(given))
    shared.close()


def kill(shared) -> None:
    """The fleet's second actor."""
    if parallel.rank() == 0:
        os.kill(shared._engine.pids()[1], signal.SIGKILL)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    import ray

    root = tmp_path_factory.mktemp("shared")
    model("qwen3", 0).save_pretrained(root / "model")
    ray.init(address="local", num_cpus=1, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False)
    with_another(what_two_do, root)
    ray.shutdown()
    return root


@pytest.fixture(scope="module")
def given(root):
    return [pickle.loads((root / f"{rank}.pickle").read_bytes()) for rank in range(2)]


@pytest.fixture(scope="module")
def alone(root):
    """(rollouts of ``REQUESTS`` by one engine of one rank, the same with the second weights)"""
    one = engine(root)
    first = one.generate(REQUESTS, SAMPLING)
    one.load_weights(sharpened(1))
    return first, one.generate(REQUESTS, SAMPLING)


def assert_same(groups, expected):
    """Log-probabilities but for rounding: batches are others."""
    assert [[each.completion_ids for each in group] for group in groups] == [
        [each.completion_ids for each in group] for group in expected
    ]
    for group, theirs in zip(groups, expected, strict=True):
        for each, other in zip(group, theirs, strict=True):
            assert each.problem_id == other.problem_id
            assert each.logprobs == pytest.approx(other.logprobs, abs=1e-3)


def test_two_ranks_with_a_fleet_of_two_get_what_one_rank_with_one_engine_gets(given, alone):
    for rank in range(2):
        assert_same(given[rank]["first"], alone[0][rank::2])
        assert_same(given[rank]["new weights"], alone[1][rank::2])
    assert alone[0] != alone[1]


def test_a_rank_may_ask_for_nothing(given, alone):
    name = "one request, none of rank 1's"
    assert_same(given[0][name], alone[0][:1])
    assert given[1][name] == []


def test_sampling_goes_on_in_a_thread_while_the_ranks_have_other_things_to_agree_on(given, alone):
    for rank in range(2):
        assert_same(given[rank]["beside collectives"], alone[1][rank::2])


def test_ranks_may_lack_different_numbers_of_shards(root, given, alone):
    assert_same(given[0]["stored"] + given[1]["stored"], alone[1])
    assert len(list((root / "rollouts").iterdir())) == 3  # nine prompts, four at a time


def test_a_rollout_worker_that_is_killed_changes_no_rank_s_rollouts(given, alone):
    for rank in range(2):
        assert_same(given[rank]["after a death"], alone[1][rank::2])


def test_what_goes_wrong_on_rank_0_is_raised_on_every_rank(given):
    assert given[0]["error"] == given[1]["error"]
    assert "rollout worker 1 died and rollouts.max_restarts are used up" in given[0]["error"]


def test_weights_that_an_engine_does_not_take_are_gathered_to_their_end(given):
    assert given[0]["refused"] == given[1]["refused"] == "no room"
