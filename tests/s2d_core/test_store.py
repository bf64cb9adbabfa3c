"""The store: what counts as finished."""

import json

import pytest

from s2d_core.errors import CheckpointError
from s2d_core.spec import StageResult, StageSpec
from s2d_core.store import Store, write_json


@pytest.fixture
def finished(tmp_path):
    spec = StageSpec(kind="train", name="opd", settings={"steps": 2}, seed=0)
    store = Store(tmp_path)
    directory = store.begin(spec)
    (directory / "model").mkdir()
    (directory / "model" / "weights").write_bytes(b"12345678")
    store.commit(spec, StageResult(fingerprint=spec.fingerprint, name="opd", kind="train", model="model", labels=3))
    return store, spec, directory


def test_a_committed_stage_is_found_again_by_its_fingerprint(finished):
    store, spec, directory = finished
    assert store.result(spec).labels == 3
    assert store.parent(spec.fingerprint) == (directory, store.result(spec))


def test_a_stage_without_a_manifest_is_not_finished(tmp_path):
    spec = StageSpec(kind="train", name="opd", settings={}, seed=0)
    Store(tmp_path).begin(spec)
    assert Store(tmp_path).result(spec) is None


@pytest.mark.parametrize("damage", [b"1234", None])
def test_a_truncated_or_missing_file_makes_a_stage_unfinished_and_its_children_say_so(finished, damage):
    store, spec, directory = finished
    weights = directory / "model" / "weights"
    weights.unlink() if damage is None else weights.write_bytes(damage)
    assert store.result(spec) is None
    with pytest.raises(CheckpointError, match="damaged"):
        store.parent(spec.fingerprint)


def test_a_torn_manifest_is_not_a_result(finished):
    store, spec, directory = finished
    (directory / "manifest.json").write_text('{"format": 1, "resu')
    assert store.result(spec) is None


def test_a_manifest_of_another_version_is_refused_and_left_alone(finished):
    store, spec, directory = finished
    write_json(directory / "manifest.json", {"format": 99, "result": {}})
    with pytest.raises(CheckpointError, match="format 99"):
        store.result(spec)
    assert json.loads((directory / "manifest.json").read_text())["format"] == 99


@pytest.mark.parametrize(
    "manifest", [{"format": 1, "result": {"fingerprint": "f", "flops": 3}}, {"format": 1}, {}, [1, 2]]
)
def test_a_manifest_this_version_cannot_read_is_one_error_that_names_the_file_and_deletes_nothing(finished, manifest):
    store, spec, directory = finished
    path = directory / "manifest.json"
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="the version that wrote it") as caught:
        store.result(spec)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert json.loads(path.read_text()) == manifest
    assert (directory / "model" / "weights").exists()


def test_an_unknown_parent_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(CheckpointError, match="run the stage"):
        Store(tmp_path).parent("0" * 16)


def test_execution_is_no_part_of_the_fingerprint_and_everything_else_is():
    def spec(**changes):
        return StageSpec(**({"kind": "train", "name": "opd", "settings": {"a": 1}, "seed": 0} | changes))

    assert spec(execution={"x": 1}).fingerprint == spec().fingerprint
    changed = [
        spec(settings={"a": 2}),
        spec(seed=1),
        spec(name="warmup"),
        spec(inputs={"data": "f"}),
        spec(numerics=99),
    ]
    assert len({each.fingerprint for each in [spec(), *changed]}) == 6
