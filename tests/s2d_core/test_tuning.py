"""The search for learning rates, on made-up accuracies."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2d_core.config.compose import load_config
from s2d_core.errors import ConfigError
from s2d_core.report.tuning import overlay, tuning_summary
from s2d_core.tuning import Search, tuners

FACTORS = [0.5, 1.0, 2.0]


def run(search, accuracy):
    while rates := search.ask():
        search.scores.update({rate: accuracy(rate) for rate in rates})
    return search


def peak_at(best):
    return lambda rate: 1 - 0.1 * abs(math.log2(rate / best))


@given(st.floats(-2.9, 2.9), st.integers(3, 12))
def test_every_search_takes_the_same_number_of_trials_wherever_its_optimum_is(offset, trials):
    assert len(run(Search(1e-3, FACTORS, trials), peak_at(1e-3 * 2**offset)).scores) == trials


@given(st.floats(-3.9, 3.9))
def test_the_grid_grows_until_the_optimum_is_bracketed_and_then_closes_in(offset):
    best = 1e-3 * 2**offset
    search = run(Search(1e-3, FACTORS, 9), peak_at(best))
    assert search.bracketed
    assert abs(math.log2(search.best / best)) <= 0.5


def test_an_optimum_out_of_reach_is_said_to_be_at_the_edge():
    search = run(Search(1e-3, FACTORS, 5), lambda rate: rate)
    assert search.best == 8e-3 and not search.bracketed


def test_trainings_that_fail_count_as_trials_and_bracket_from_above():
    search = run(Search(1e-3, FACTORS, 5), lambda rate: None if rate > 1e-3 else rate)
    assert len(search.scores) == 5
    assert search.bracketed and search.best == 1e-3


def test_where_every_training_fails_smaller_rates_are_tried_and_none_is_chosen():
    search = run(Search(1e-3, FACTORS, 5), lambda rate: None)
    assert search.best is None and not search.bracketed
    assert min(search.scores) == 1.25e-4


def test_the_recipe_s_own_value_stays_as_it_is_so_that_its_results_are_found_again():
    assert Search(1.23456789e-3, FACTORS, 3).ask()[1] == 1.23456789e-3


@pytest.fixture
def tuner():
    rates = {"teacher_rl": 6e-4, "warmup": 3e-3, "opd": 2e-3}
    config = load_config("small_world", [f"stages.{stage}.optimiser.lr={rate}" for stage, rate in rates.items()])
    (only,) = tuners(config, ["full"], FACTORS, 3)
    return only


def rates(arm):
    return [entry.set.get("optimiser.lr") for entry in arm.stages]


def test_the_teacher_is_searched_alone_and_the_student_s_stages_to_the_end_of_the_arm(tuner):
    trials = tuner.ask()
    assert [[entry.stage for entry in arm.stages] for arm in trials.values()] == [["teacher_rl"]] * 3
    tuner.tell(dict(zip(trials, [0.1, 0.2, 0.3], strict=True)))
    trials = tuner.ask()
    assert [rates(arm) for arm in trials.values()] == [[1.2e-3, rate, None] for rate in (1.5e-3, 3e-3, 6e-3)]
    tuner.tell(dict(zip(trials, [0.3, 0.2, 0.1], strict=True)))
    trials = tuner.ask()
    assert [rates(arm) for arm in trials.values()] == [[1.2e-3, 1.5e-3, rate] for rate in (1e-3, 2e-3, 4e-3)]
    tuner.tell(dict(zip(trials, [0.1, 0.9, 0.1], strict=True)))
    assert not tuner.ask() and not tuner.failed
    assert rates(tuner.tuned()) == [1.2e-3, 1.5e-3, 2e-3]


def test_only_the_named_stages_are_searched_and_the_others_keep_the_recipe_s_rates():
    config = load_config("small_world")
    (tuner,) = tuners(config, ["half_split"], FACTORS, 3, ["student_rl"])
    kept = rates(config.arms["half_split"])
    trials = tuner.ask()
    assert [rates(arm)[:3] for arm in trials.values()] == [kept[:3]] * 3
    assert [rates(arm)[3] for arm in trials.values()] == pytest.approx([each * kept[3] for each in FACTORS], rel=1e-3)
    tuner.tell(dict(zip(trials, [0.1, 0.2, 0.3], strict=True)))
    assert not tuner.ask() and not tuner.failed
    assert rates(tuner.tuned())[:3] == kept[:3]
    assert rates(tuner.tuned())[3] == pytest.approx(2 * kept[3], rel=1e-3)
    assert [row["stage"] for row in tuning_summary([tuner], 3, [0], "small_world").rows] == ["student_rl"] * 3
    with pytest.raises(ConfigError, match="direct_grpo has none of them"):
        tuners(config, ["half_split", "direct_grpo"], FACTORS, 3, ["opd"])


def test_the_overlay_is_a_recipe_with_the_chosen_values(tuner, tmp_path):
    while trials := tuner.ask():
        tuner.tell(dict(zip(trials, [0.1, 0.2, 0.3], strict=True)))
    path = tmp_path / "tuned.yaml"
    path.write_text(overlay([tuner], 3, "small_world", "small_world", "python -m flows tune"))
    config = load_config(str(path))
    assert rates(config.arms["full"]) == [1.2e-3, 6e-3, 4e-3]
    assert config.arms["direct_grpo"] == load_config("small_world").arms["direct_grpo"]
    assert config.name == "small_world_tuned"
    assert config.learning_rate_trials["full"] == 3


def test_an_arm_that_cannot_be_trained_is_left_out_of_the_overlay_and_named(tuner):
    while trials := tuner.ask():
        tuner.tell(dict.fromkeys(trials))
    assert tuner.failed
    assert "full" not in overlay([tuner], 3, "small_world", "small_world", "command")
    summary = tuning_summary([tuner], 3, [0], "small_world")
    assert "teacher_rl failed under every learning rate" in summary.findings[0]
    assert {row["avg@k %"] for row in summary.rows} == {"failed"}


@pytest.mark.parametrize(
    ("arms", "factors", "trials", "named"),
    [
        (["ful"], FACTORS, 5, r"arms = \['ful'\]: unknown; allowed: full, direct_grpo"),
        (["full", "full"], FACTORS, 5, "each once"),
        ([], FACTORS, 5, "at least one"),
        (None, [0.0, 1.0], 5, "positive"),
        (None, [1.0, 1.0], 5, "each once"),
        (None, [], 5, "at least one"),
        (None, FACTORS, 2, "trials = 2"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(arms, factors, trials, named):
    with pytest.raises(ConfigError, match=named):
        tuners(load_config("small_world"), arms, factors, trials)
