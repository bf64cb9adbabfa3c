"""The data stage over a person's own files: what the guard dropped is listed, counted and logged."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s2d_core.config.compose import load_config
from s2d_core.data.dataset import read_split
from s2d_core.errors import DataError
from s2d_core.plan import plan
from s2d_core.run_stage import run_stage
from s2d_core.spec import StageSpec
from s2d_core.store import Store


def row(prompt, answer):
    return {"prompt": [{"role": "user", "content": prompt}], "reward_model": {"ground_truth": answer}}


ROWS = [
    *(row(f"Find the remainder of {i} to the power {i + 2}", str(i)) for i in range(20)),
    row("Find the remainder  of 3 to the power 5", "3"),
    row("Find the remainder of $3$ to the power $5$.", "3"),
    row("Find the remainder of 4 to the power 6", "5"),
]


def stage(tmp_path, **files):
    """The spec of a data stage over ``tmp_path``'s files, executed as the smoke recipe executes its own."""
    smoke = plan(load_config("smoke", [f"store={tmp_path / 'store'}", "launch.mode=inproc"]), None, [0])
    execution = next(spec for spec in smoke.specs.values() if spec.kind == "data").execution
    fields = {"prompt_field": "prompt", "answer_field": "reward_model.ground_truth"}
    settings = {
        "splits": {"labelled": 6, "held_out": 4, "validation": 2, "test": 2},
        "files": {"train": str(tmp_path / "train.parquet"), **fields, **files},
    }
    return StageSpec(kind="data", name="data", settings=settings, seed=0, execution=execution)


def test_nested_chat_rows_are_guarded_and_what_was_dropped_is_listed_counted_and_logged(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "train.parquet")
    pq.write_table(
        pa.Table.from_pylist([row("Find the remainder of $7$ to the power $9$", "7"), row("Name a prime", "2")]),
        tmp_path / "test.parquet",
    )
    spec = stage(tmp_path, test=str(tmp_path / "test.parquet"))
    result = run_stage(spec)
    folder = Store(tmp_path / "store").dir(spec)

    lines = (folder / "dropped.jsonl").read_text(encoding="utf-8").splitlines()
    dropped = [json.loads(line) for line in lines]
    assert [(d["id"].split("-")[0], d["reason"], d["match"], d["source"]) for d in dropped] == [
        ("4", "conflict", "exact", ""),
        ("7", "evaluation", "normalised", "test"),
        ("20", "duplicate", "exact", ""),
        ("21", "duplicate", "normalised", ""),
        ("22", "conflict", "exact", ""),
    ]
    assert dropped[1]["other_prompt"] == "Find the remainder of $7$ to the power $9$"
    assert "prompt" not in dropped[2]
    assert result.metrics == {
        "problems_labelled": 6.0,
        "problems_held_out": 4.0,
        "problems_unlabelled": 0.0,
        "problems_validation": 2.0,
        "problems_test": 2.0,
        "unique_prompts": 21.0,
        "conflicting_prompts": 1.0,
        "dropped_evaluation": 1.0,
        "dropped_conflict": 2.0,
        "dropped_duplicate": 2.0,
    }
    assert (
        "21 unique prompts, 1 with conflicting answers; 2 duplicate, 2 conflicting and 1 evaluation problems were"
        in (folder / "stage.log").read_text()
    )
    assert result.sizes.get("dropped.jsonl") or Store(tmp_path / "store").result(spec).sizes["dropped.jsonl"] > 0
    kept = {p.prompt for name in ("labelled", "held_out", "validation") for p in read_split(folder / "dataset", name)}
    assert not any(" 4 to" in prompt or " 7 to" in prompt for prompt in kept)


def test_a_field_that_is_not_there_is_named_with_those_that_are(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"no field 'reward_model.truth'; there are prompt, reward_model.ground_truth"):
        run_stage(stage(tmp_path, answer_field="reward_model.truth"))
