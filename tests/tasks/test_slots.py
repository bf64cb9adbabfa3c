"""Which of the waiting stages goes first, and that no more run than there are slots."""

import threading
import time

import pytest

from s2d_core.config.schema import Config
from s2d_core.plan import plan
from tasks.slots import Slots, priorities


def test_no_more_stages_run_than_there_are_slots() -> None:
    slots, running, most = Slots(2), 0, 0
    guard = threading.Lock()

    def stage(name: str) -> None:
        nonlocal running, most
        with slots(name, 1.0):
            with guard:
                running += 1
                most = max(most, running)
            time.sleep(0.05)
            with guard:
                running -= 1

    threads = [threading.Thread(target=stage, args=(str(index),)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 2


def test_a_free_slot_goes_to_the_waiting_stage_of_highest_priority() -> None:
    slots, order = Slots(1), []

    def stage(name: str, priority: float) -> None:
        with slots(name, priority):
            order.append(name)

    with slots("first", 0.0):
        threads = [threading.Thread(target=stage, args=each) for each in (("low", 1.0), ("high", 9.0), ("middle", 5.0))]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
    for thread in threads:
        thread.join()
    assert order == ["high", "middle", "low"]


def test_a_stage_starts_when_there_is_room_for_all_of_it_and_smaller_ones_go_before() -> None:
    slots, order = Slots(3, {"CPU": 8.0, "GPU": 4.0}), []

    def stage(name: str, priority: float, gpus: float) -> None:
        with slots(name, priority, needs={"CPU": 1.0, "GPU": gpus}):
            order.append(name)

    with slots("first", 0.0, needs={"GPU": 3.0}):
        threads = [threading.Thread(target=stage, args=each) for each in (("large", 9.0, 4.0), ("small", 1.0, 1.0))]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        assert order == ["small"]
    for thread in threads:
        thread.join()
    assert order == ["small", "large"]


def test_what_the_check_raises_ends_the_wait_and_leaves_the_slot_to_others() -> None:
    slots = Slots(1)

    def check() -> None:
        raise InterruptedError

    with slots("first", 0.0), pytest.raises(InterruptedError), slots("second", 9.0, check):
        pass
    with slots("third", 1.0):
        pass


def test_the_longest_chain_of_work_has_the_highest_priority(smoke: Config) -> None:
    specs = plan(smoke, ["full"], [0]).specs
    found = priorities(specs)
    of = {spec.name: found[fingerprint] for fingerprint, spec in specs.items()}
    assert of["data"] > of["teacher_rl"]
    assert of["pretrain_teacher"] > of["teacher_rl"] > of["warmup"] > of["opd"] > of["evaluate"]
