import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2d_core.rewards.boxes import last_box


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"55;65;\boxed{59}", "59"),
        (r"\boxed{1} no, \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed { 7 }", "7"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed{a \\} b", r"a \\"),
        (r"\boxed{\boxed{3}}", "3"),
    ],
)
def test_the_last_box_decides_and_its_braces_are_balanced(text, content):
    assert last_box(text) == content


@pytest.mark.parametrize(
    "text", ["", "59", r"\boxed 5", r"\boxed{", r"\boxed{5} \boxed{6", r"\boxed{ }", "\\boxed{5\\"]
)
def test_a_missing_unclosed_or_empty_box_is_no_answer(text):
    assert last_box(text) is None


@given(
    st.text(),
    st.recursive(
        st.text("ab1 \\frac^", max_size=5).map(lambda t: t.replace("\\", "\\\\")),
        lambda inner: inner.map("{{{}}}".format),
    ),
)
def test_any_balanced_content_is_found_whole(before, content):
    assert last_box(before + "\\boxed{" + content + "} end") == (content.strip() or None)


@given(st.text("\\boxed{} 1"))
def test_no_text_makes_it_fail(text):
    box = last_box(text)
    assert box is None or box in text
