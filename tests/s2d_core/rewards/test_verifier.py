import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from s2d_core.data.problems import Problem
from s2d_core.errors import ResourceError
from s2d_core.rewards.boxes import last_box
from s2d_core.rewards.verifier import Verdict, Verifier

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
SLOW = r"10^{10^{10}}"


def boxed(text):
    return f"so the answer is \\boxed{{{text}}}"


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def worker_processes():
    return [p for p in psutil.Process().children() if "s2d_core.rewards.grading" in p.cmdline()]


@pytest.fixture(scope="module")
def verifier():
    with Verifier(workers=2, timeout_s=5.0) as verifier:
        yield verifier


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (r"\frac{1}{2}", "0.5"),
        ("10{,}000", "10000"),
        ("x+1", "1+x"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)"),
        ("142", "142.0"),
        ("059", "59"),
    ],
)
def test_equal_mathematics_is_correct_however_it_is_spelt(verifier, answer, gold):
    assert verifier.score([(boxed(answer), gold)]) == [Verdict(1.0, "correct")]


def test_each_way_to_be_without_reward_has_its_own_status_and_the_order_is_kept(verifier):
    completions = [boxed("1/3"), "the answer is 1/2", boxed("0.5"), r"\boxed{1/2", boxed("x" * 2000)]
    verdicts = verifier.score([(text, r"\frac12") for text in completions])
    assert [v.status for v in verdicts] == ["wrong", "malformed", "correct", "malformed", "wrong"]
    assert [v.reward for v in verdicts] == [0.0, 0.0, 1.0, 0.0, 0.0]


def test_an_empty_batch_has_no_verdicts(verifier):
    assert verifier.score([]) == []


@pytest.mark.parametrize("answer", ["7", "-7", "+7", "007", "-0", "0", "70", "123456789012345"])
@pytest.mark.parametrize("gold", ["7", "-7", "0", "123456789012345"])
def test_comparing_integers_directly_agrees_with_math_verify(verifier, answer, gold):
    direct = Verifier()
    verdict = direct.score([(boxed(answer), gold)])
    # An enclosing pair of braces is all it takes to send both through the parser.
    assert verdict == verifier.score([(boxed(f"{{{answer}}}"), f"{{{gold}}}")])


def test_no_process_starts_until_an_answer_needs_parsing():
    before = len(worker_processes())
    with Verifier() as verifier:
        verifier.score([(boxed(" x+1 "), "x+1"), (boxed("3"), "4"), ("no box", "4")])
        assert len(worker_processes()) == before
        verifier.score([(boxed("1+x"), "x+1")])
        assert len(worker_processes()) == before + 1
    assert len(worker_processes()) == before


def test_the_same_wrong_answer_is_read_once_for_a_whole_group():
    with Verifier(timeout_s=1.0) as verifier:
        start = time.monotonic()
        verdicts = verifier.score([(boxed(SLOW), "1/7")] * 16)
        verdicts += verifier.score([(boxed(SLOW), "1/7")] * 16)
        assert time.monotonic() - start < 30  # one second for each of the 32 were too many
    assert {v.status for v in verdicts} == {"timeout"}


@pytest.mark.parametrize(
    "answer",
    [
        SLOW,
        r"9^{9^{9^{9}}}",
        "(" * 300 + "1" + ")" * 300,
        "{" * 400 + "1" + "}" * 400,
        r"\sqrt{" * 150 + "2" + "}" * 150,
        r"\binom{1000000000}{500000000}",
        "7" * 1_000_000,
        "\x00\ud7ff\\",
    ],
)
def test_a_pathological_answer_ends_within_the_limit_and_scores_nothing(answer):
    with Verifier(timeout_s=1.0, memory_mb=512) as verifier:
        start = time.monotonic()
        (verdict,) = verifier.score([(boxed(answer), "17/3")])
        assert time.monotonic() - start < 30
        assert verdict.reward == 0.0
        assert verdict.status in ("timeout", "wrong", "malformed")
        assert verifier.score([(boxed("34/6"), "17/3")])[0].status == "correct"


@pytest.fixture
def kill_workers():
    """Sends SIGKILL to the verifier processes that were started since the test began."""
    others = {process.pid for process in worker_processes()}

    def kill(most):
        victims = [process.pid for process in worker_processes() if process.pid not in others][:most]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        return len(victims)

    return kill


@pytest.mark.parametrize("at_once", [1, 2])
def test_killed_workers_are_replaced_and_their_answers_read_again(kill_workers, at_once):
    with Verifier(workers=2, timeout_s=20.0) as verifier:
        verifier.score([(boxed("1/2"), "0.5")])
        batch = [(boxed(f"{i}/7+x"), f"x+{i}/7") for i in range(1000)]
        verdicts: list[Verdict] = []
        scoring = threading.Thread(target=lambda: verdicts.extend(verifier.score(batch)))
        scoring.start()
        time.sleep(0.2)
        assert kill_workers(at_once) == at_once
        assert scoring.is_alive()
        scoring.join()
        assert len(verdicts) == 1000
        assert {v.status for v in verdicts} == {"correct"}


def test_a_worker_killed_between_batches_does_not_matter(kill_workers):
    with Verifier(workers=1) as verifier:
        verifier.score([(boxed("1/2"), "0.5")])
        assert kill_workers(1) == 1
        time.sleep(0.5)
        assert verifier.score([(boxed("3/2"), "1.5")])[0].status == "correct"


def test_an_answer_over_the_memory_limit_scores_nothing_while_its_neighbours_count():
    with Verifier(timeout_s=10.0, memory_mb=64) as verifier:
        verdicts = verifier.score([(boxed("2^{2^{33}}"), "1/3"), (boxed("2/6"), "1/3")])
    assert verdicts[0].reward == 0.0
    assert verdicts[1].status == "correct"


def test_workers_that_cannot_start_are_an_error_and_not_a_row_of_zeros():
    with Verifier(memory_mb=2**60) as verifier, pytest.raises(ResourceError, match="lower verifier\\.workers"):
        verifier.score([(boxed("1/2"), "0.5")])


def test_threads_may_share_a_verifier(verifier):
    results: dict[int, list[Verdict]] = {}

    def work(n):
        results[n] = verifier.score([(boxed(f"{n}/8"), f"{n * 125}/1000"), (boxed(f"{n}/9"), "1/1000")])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {tuple(v.status for v in verdicts) for verdicts in results.values()} == {("correct", "wrong")}
    assert len(results) == 7


def test_gold_that_cannot_be_recognised_is_found_beforehand(verifier):
    golds = {"fine": r"\frac{1}{2}", "integer": "12", "hidden": None, "endless": "1" * 3000 + ".5", "empty": "$$"}
    problems = [Problem(id=name, prompt="p", answer=gold) for name, gold in golds.items()]
    assert verifier.check_answers(problems) == ["endless", "empty"]


def golds_of(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} is not there (shared test data)")
    text = path.read_text()
    rows = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    return [last_box(row["solution"]) if name.startswith("minerva") else str(row["answer"]) for row in rows]


@pytest.mark.parametrize(
    ("name", "problems", "unrecognised"),
    [
        ("math_500.json", 500, 0),
        ("aime24.jsonl", 30, 0),
        ("aime25.json", 30, 0),
        ("amc23_83.json", 83, 0),
        ("minerva_math.jsonl", 272, 1),
    ],
)
def test_real_gold_answers_in_a_box_are_correct_and_math_verify_recognises_them(verifier, name, problems, unrecognised):
    golds = golds_of(name)
    assert [v.status for v in verifier.score([(boxed(gold), gold) for gold in golds])] == ["correct"] * problems
    bad = verifier.check_answers([Problem(id=str(i), prompt="p", answer=gold) for i, gold in enumerate(golds)])
    assert len(bad) <= unrecognised


@pytest.mark.slow
def test_a_busy_worker_ends_by_itself_when_its_parent_is_gone():
    script = (
        f"from s2d_core.rewards.verifier import Verifier; Verifier(timeout_s=1.5).score([({boxed(SLOW)!r}, '1/3')])"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    try:
        wait_until(lambda: psutil.Process(parent.pid).children())
        (orphan,) = psutil.Process(parent.pid).children()
        wait_until(lambda: sum(orphan.cpu_times()[:2]) > 0.1)
        time.sleep(1.0)
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not orphan.is_running())
    assert not psutil.pid_exists(orphan.pid)


@pytest.mark.slow
def test_it_works_inside_a_ray_task():
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:

        @ray.remote
        def score(items):
            with Verifier(timeout_s=2.0) as verifier:
                return [verdict.status for verdict in verifier.score(items)]

        items = [(boxed("2/4"), "0.5"), (boxed(SLOW), "0.5"), ("", "0.5")]
        assert ray.get(score.remote(items), timeout=120) == ["correct", "timeout", "malformed"]
    finally:
        ray.shutdown()
