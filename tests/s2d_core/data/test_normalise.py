import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2d_core.data.normalise import WRAPPED, answer_key, fold, tokens, unwrap


@given(st.text(alphabet="ab1.,\\${}^ \n\t-"), st.text(alphabet=" \n\t", min_size=1))
def test_white_space_of_any_kind_makes_no_difference(text, space):
    again = re.sub(r"\s+", lambda _: space, text)
    assert fold(again) == fold(text)
    assert tokens(again) == tokens(text)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("\\left( x \\right)", "(x)"),
        ("$x \\leq 10{,}000$", "\\(x\\le 10,000\\)"),
        ("\\frac{1}{2}", "\\dfrac12"),
        ("a_{1}, \\ldots, a_{n}", "a_1,\\dots,a_n"),
        ("non-zero, “so-called”", "non zero so called"),
        ("Find THE sum.", "find the sum"),
        ("x−1", "x-1"),
        ("x²", "x^2"),
    ],
)
def test_two_spellings_are_one_form(text, same):
    assert tokens(text) == tokens(same)


@pytest.mark.parametrize(
    ("text", "other"), [("1.5", "15"), ("x+1", "x-1"), ("n!", "n"), ("(1,2]", "[1,2]"), ("a", "A")]
)
def test_what_changes_a_problem_is_kept(text, other):
    assert tokens(text) != tokens(other)


@pytest.mark.parametrize(
    ("answer", "key"),
    [("20.0", "20"), ("\\frac{2}{4}", "1/2"), ("-\\frac12", "-1/2"), ("10,000", "10000"), ("1/0", "1 / 0"), ("", "")],
)
def test_answers_that_are_equal_numbers_have_one_key(answer, key):
    assert answer_key(answer) == key


def test_what_is_around_all_prompts_goes_and_no_word_is_cut():
    files = [["<user>Find one<end>", "<user>Find once<end>"], ["<user>Find only<end>"]]
    assert unwrap(files) == [["one", "once"], ["only"]]


def test_a_files_own_instructions_go_by_whole_lines_when_enough_prompts_share_them():
    shared = [f"Think.\nFind {i}\nBox it." for i in range(WRAPPED)]
    assert unwrap([shared, ["Name a prime"]]) == [[f"Find {i}\n"[:-1] for i in range(WRAPPED)], ["Name a prime"]]
    few = shared[: WRAPPED - 1]
    assert unwrap([few, ["Name a prime"]]) == [few, ["Name a prime"]]
