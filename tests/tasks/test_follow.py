"""Following a stage by its files: whole lines only, each once, also when the stage goes back to a checkpoint."""

from pathlib import Path

from tasks.follow import StageFollower, Tail, describe


def test_only_whole_lines_are_returned_each_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    tail = Tail(path)
    assert tail.lines() == []  # not there yet
    path.write_text("one\ntw")
    assert tail.lines() == ["one"]
    path.write_text("one\ntwo\nthree\n")
    assert tail.lines() == ["two", "three"]
    assert tail.lines() == []


def test_lines_written_again_after_a_cut_are_new(tmp_path: Path) -> None:
    path = tmp_path / "log"
    tail = Tail(path)
    path.write_text("1\n2\n3\n")
    tail.lines()
    path.write_text("1\n")
    assert tail.lines() == []
    path.write_text("1\n2\n")
    assert tail.lines() == ["2"]


def test_a_cut_that_nobody_saw_breaks_no_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    tail = Tail(path)
    path.write_text("1\n22\n333\n")
    tail.lines()
    path.write_text("1\n4444\n55555\n666666\n")
    assert tail.lines() == ["666666"]


def test_a_follower_reads_metrics_and_log(tmp_path: Path) -> None:
    follower = StageFollower(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "steps": 2}\n')
    (tmp_path / "stage.log").write_text("hello\n")
    assert follower.metrics() == [{"step": 1, "steps": 2}]
    assert follower.log() == ["hello"]


def test_a_description_names_what_the_step_measured() -> None:
    line = {"step": 3, "steps": 8, "reward": 0.5, "seconds": 0.1, "tokens_per_second": 1234.5}
    assert describe(line) == "step 3/8, reward 0.5, 1234 tokens/s"
