"""Seeds, metrics logs and stopwatches."""

import hashlib
import json

from s2d_core.training.context import MetricsLog, Stopwatch, stable_seed


def test_seeds_are_stable_and_differ_by_part():
    digest = hashlib.blake2b(b"a:1", digest_size=8).digest()
    assert stable_seed("a", 1) == int.from_bytes(digest, "big") // 2
    assert len({stable_seed("a", step) for step in range(1000)}) == 1000
    assert 0 <= stable_seed("x") < 2**63


def test_a_resumed_log_drops_the_lines_after_its_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3)) + '{"step": 4, "tor')
    log = MetricsLog(path, done=2)
    log.append({"step": 3})
    assert [line["step"] for line in log.read()] == [1, 2, 3]


def test_a_stopwatch_adds_up_the_parts_of_a_step():
    clock = Stopwatch()
    for _ in range(2):
        with clock("sample"):
            pass
    assert list(clock.seconds) == ["sample"]
    assert clock.seconds["sample"] >= 0
