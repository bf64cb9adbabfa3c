"""Rollouts on disk: what was sampled before a kill is not sampled again, and changes nothing."""

import weakref

import pytest
from tiny_models import EOS, make_requests, tiny_model

from s2d_core.config.schema import RolloutsConfig
from s2d_core.rollouts.files import generate_stored, read_groups, shard_size, write_groups
from s2d_core.rollouts.on_demand import OnDemand
from s2d_core.rollouts.torch_engine import TorchEngine
from s2d_core.rollouts.types import Sampling

SAMPLING = Sampling(max_tokens=9, n=2)


class Counting:
    """A torch engine that remembers what it was asked, and dies when it has been asked ``lives`` times."""

    def __init__(self, lives=99):
        self.engine, self.lives, self.asked = TorchEngine(tiny_model(), EOS, batch_size=4), lives, []

    def generate(self, requests, sampling):
        if self.lives == len(self.asked):
            raise KeyboardInterrupt
        self.asked.append([request.problem_id for request in requests])
        return self.engine.generate(requests, sampling)


def test_what_is_read_is_what_was_written_to_the_last_bit(tmp_path):
    requests = make_requests(5)
    groups = Counting().generate(requests, SAMPLING)
    write_groups(tmp_path / "a.parquet", requests, groups)
    assert read_groups(tmp_path / "a.parquet") == dict(zip(requests, groups, strict=True))


def test_shards_of_whole_batches_hold_exactly_what_one_generation_would(tmp_path):
    requests = make_requests(11)
    stored = generate_stored(Counting(), requests, SAMPLING, tmp_path, shard=4)
    assert stored == Counting().generate(requests, SAMPLING)


def test_a_killed_generation_goes_on_with_what_is_missing(tmp_path):
    requests, killed, next_try = make_requests(11), Counting(lives=2), Counting()
    with pytest.raises(KeyboardInterrupt):
        generate_stored(killed, requests, SAMPLING, tmp_path, shard=4)
    (tmp_path / ".torn.parquet.123").write_bytes(b"half of a shard")
    stored = generate_stored(next_try, requests, SAMPLING, tmp_path, shard=4)
    assert stored == Counting().generate(requests, SAMPLING)
    assert sorted(name for part in killed.asked + next_try.asked for name in part) == sorted(
        request.problem_id for request in requests
    )


def test_an_engine_on_demand_starts_for_what_is_missing_alone_and_ends_when_closed(tmp_path):
    started = []

    def start():
        started.append(TorchEngine(tiny_model(), EOS, batch_size=4))
        return started[-1]

    requests = make_requests(6)
    for _ in range(2):
        engine = OnDemand(start)
        stored = generate_stored(engine, requests, SAMPLING, tmp_path, shard=4)
        assert stored == Counting().generate(requests, SAMPLING)
        engine.close()
        assert len(started) == 1
    gone = weakref.ref(started.pop())
    assert gone() is None


def test_other_prompts_or_seeds_are_not_taken_for_those_that_are_stored(tmp_path):
    generate_stored(Counting(), make_requests(3), SAMPLING, tmp_path, shard=4)
    again, others = Counting(), make_requests(3, seed=1)
    assert generate_stored(again, others, SAMPLING, tmp_path, shard=4) == Counting().generate(others, SAMPLING)
    assert len(again.asked[0]) == 3


def test_a_shard_is_whole_batches_of_every_engine():
    assert shard_size(RolloutsConfig(batch_size=512), n=8) % 64 == 0
    assert shard_size(RolloutsConfig(batch_size=512, workers=3), n=8) % (3 * 64) == 0
    assert shard_size(RolloutsConfig(batch_size=4), n=16) >= 1
