"""Breakdowns of an evaluation's samples."""

from s2d_core.evaluation.samples import per_level, per_problem, per_set
from s2d_core.report.pictures.arms import sets


def line(problem, sample, correct, level=0):
    return {"problem_id": problem, "sample": sample, "correct": correct, "level": level}


SAMPLES = [
    line("math_500/test/algebra/1.json", -1, 1, 2),  # greedy: in no share
    line("math_500/test/algebra/1.json", 0, 1, 2),
    line("math_500/test/algebra/1.json", 1, 0, 2),
    line("aime_2024/60", 0, 1, 10),
    line("aime_2024/60", 1, 1, 10),
    line("math_500/test/number/2.json", 0, 0, 3),
    line("math_500/test/number/2.json", 1, 0, 3),
]


def test_shares_of_right_samples_by_problem_level_and_test_set():
    assert per_problem(SAMPLES).tolist() == [1.0, 0.5, 0.0]
    assert per_level(SAMPLES) == {"2": 0.5, "3": 0.0, "10": 1.0}
    assert per_set(SAMPLES) == {"aime_2024": 1.0, "math_500": 0.25}


def test_a_single_test_set_has_no_breakdown_whether_its_ids_have_slashes_or_not():
    assert per_set([line("7", 0, 1), line("8", 0, 0)]) == {}
    assert per_set([line("test/7", 0, 1), line("test/8", 0, 0)]) == {}


def test_the_picture_has_a_column_for_each_set_and_there_is_none_without_sets():
    run = {"seed": 0, "accuracy": {"avg_at_k": 0.5}, "sets": per_set(SAMPLES)}
    data = {"arms": {"full": [run]}, "summary": {"full": {"mean": 0.5, "interval": [0.4, 0.6], "seeds": 1}}}
    figure = sets(data, {})
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["aime_2024", "math_500"]
    assert sets({**data, "arms": {"full": [run | {"sets": {}}]}}, {}) is None
