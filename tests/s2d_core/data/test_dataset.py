import json

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2d_core.data.dataset import content_hash, read_manifest, read_split, write_dataset
from s2d_core.data.problems import Problem
from s2d_core.errors import DataError

SPLITS = {
    "labelled": [Problem("a", "1+1?", "2", 2), Problem("b", "naïve ∑", "∅", 3)],
    "unlabelled": [Problem(f"u{i}", f"{i}?") for i in range(50)],
    "held_out": [],
}


@pytest.fixture
def written(tmp_path):
    write_dataset(tmp_path / "data", SPLITS)
    return tmp_path / "data"


def test_what_was_written_is_read_back(written):
    assert {name: read_split(written, name) for name in SPLITS} == SPLITS


def test_any_hugging_face_tool_opens_it(written):
    opened = datasets.load_from_disk(str(written))
    assert set(opened) == {"labelled", "unlabelled"}  # an empty split has no table
    assert opened["labelled"]["id"][:] == ["a", "b"]


def test_the_manifest_counts_and_hashes_and_is_the_same_for_the_same_content(written, tmp_path):
    manifest = read_manifest(written)
    assert manifest["splits"]["unlabelled"] == {"count": 50, "sha256": content_hash(SPLITS["unlabelled"])}
    assert write_dataset(tmp_path / "again", SPLITS) == manifest
    changed = {**SPLITS, "labelled": [Problem("a", "1+1?", "3", 2), SPLITS["labelled"][1]]}
    assert write_dataset(tmp_path / "changed", changed)["sha256"] != manifest["sha256"]


@given(st.lists(st.builds(Problem, st.text(), st.text(), st.none() | st.text(), st.integers(0, 9)), max_size=4))
def test_the_content_hash_sees_order_and_every_field(problems):
    assert content_hash(problems) == content_hash(list(problems))
    assert content_hash([*problems, Problem("z", "z")]) != content_hash(problems)


def test_writing_again_replaces_the_dataset_and_leaves_no_scraps(written):
    write_dataset(written, {"labelled": SPLITS["labelled"][:1]})
    assert read_split(written, "labelled") == SPLITS["labelled"][:1]
    assert [entry.name for entry in written.parent.iterdir()] == ["data"]
    with pytest.raises(DataError, match="no split 'unlabelled'; there are labelled"):
        read_split(written, "unlabelled")


def test_a_missing_dataset_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no dataset here"):
        read_split(tmp_path / "nowhere", "labelled")


def test_a_truncated_table_is_an_error(written):
    (arrow,) = (written / "unlabelled").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[: arrow.stat().st_size // 2])
    with pytest.raises(DataError, match="'unlabelled' cannot be read"):
        read_split(written, "unlabelled")


def test_a_missing_table_is_an_error(written):
    for arrow in (written / "labelled").glob("*.arrow"):
        arrow.unlink()
    with pytest.raises(DataError, match="'labelled'"):
        read_split(written, "labelled")


def test_other_content_than_the_manifest_tells_is_an_error(written, tmp_path):
    write_dataset(tmp_path / "other", {**SPLITS, "labelled": SPLITS["labelled"][:1]})
    (written / "manifest.json").write_text((tmp_path / "other" / "manifest.json").read_text())
    with pytest.raises(DataError, match="holds 2 problems and 1 were written"):
        read_split(written, "labelled")


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps({"splits": {}})])
def test_a_damaged_manifest_is_an_error(written, content):
    (written / "manifest.json").write_text(content)
    with pytest.raises(DataError, match="damaged manifest"):
        read_manifest(written)
