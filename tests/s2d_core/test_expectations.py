"""Expectations: refused before training when the run cannot judge them, named afterwards when it found otherwise."""

import pytest

from s2d_core.config.schema import Config
from s2d_core.errors import ConfigError
from s2d_core.expectations import check_expectations, unmet

CLAIM = "full > direct_grpo"
FOUND = {"contrasts": [{"name": CLAIM, "verdict": "undecided", "difference": 0.012, "interval": [-0.03, 0.054]}]}


def test_a_contrast_of_arms_in_the_run_can_be_expected(smoke: Config) -> None:
    check_expectations(smoke, ["full", "direct_grpo"], {CLAIM: "holds"})


def test_every_expectation_that_cannot_be_judged_is_named_with_what_is_allowed(smoke: Config) -> None:
    with pytest.raises(ConfigError) as caught:
        check_expectations(smoke, ["full"], {"full > fool": "holds", CLAIM: "holds"})
    unknown, without = str(caught.value).splitlines()
    assert "'full > fool': unknown contrast" in unknown and repr(CLAIM) in unknown
    assert CLAIM in without and "lacks direct_grpo" in without


def test_a_verdict_as_expected_is_no_failure() -> None:
    assert unmet(FOUND, {CLAIM: "undecided"}) == []


def test_another_verdict_is_named_with_the_difference_and_its_interval() -> None:
    (line,) = unmet(FOUND, {CLAIM: "holds"})
    assert line == ("full > direct_grpo: expected 'holds', found 'undecided': +1.2 points, 95 % interval -3.0 to +5.4")


def test_a_contrast_whose_arms_failed_is_not_taken_for_met() -> None:
    (line,) = unmet({"contrasts": []}, {CLAIM: "undecided"})
    assert line.startswith(CLAIM) and "not judged" in line
