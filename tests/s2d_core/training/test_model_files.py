"""Model folders: whole or refused, and named by content."""

import json

import pytest
import torch
from safetensors.torch import save_file

from s2d_core.config.inputs import ModelConfig
from s2d_core.errors import CheckpointError
from s2d_core.training.model_files import check_model, content_hash, locate_model


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    save_file({"weight": torch.arange(12.0)}, tmp_path / "model.safetensors")
    return tmp_path


def test_a_whole_folder_is_found_where_it_is(folder):
    assert locate_model(ModelConfig(path=str(folder))) == folder


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=missing):
        check_model(folder)


def test_truncated_weights_are_noticed_by_their_length(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="truncated"):
        check_model(folder)


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 8 + b"{}", (2).to_bytes(8, "little") + b"[]"])
def test_a_file_that_is_no_safetensors_is_refused(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError):
        check_model(folder)


def test_every_shard_of_the_index_must_be_there(folder):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"model-2\.safetensors"):
        check_model(folder)


def test_the_hash_follows_weights_and_configuration(folder):
    before = content_hash(folder)
    save_file({"weight": torch.arange(12.0) + 1}, folder / "model.safetensors")
    changed_weights = content_hash(folder)
    (folder / "config.json").write_text('{"a": 1}')
    assert len({before, changed_weights, content_hash(folder)}) == 3


def test_a_folder_that_does_not_exist_is_refused_in_words():
    with pytest.raises(CheckpointError, match="no such folder"):
        locate_model(ModelConfig(path="./nowhere"))
