"""Pruning a store: what is needed, young, running or beyond a link stays; the rest goes, a killed removal's too."""

import os
import time
from pathlib import Path

import pytest

from flows import prepare
from s2d_core.errors import ConfigError
from s2d_core.spec import StageResult, StageSpec
from s2d_core.store import Store
from tasks.locks import exclusive
from tasks.prune import REMOVED, removable, remove, would_remove

OLD = 40 * 86_400


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def stage(store: Store, name: str, *parents: StageSpec, finished: bool = True) -> StageSpec:
    """A stage that has a checkpoint and, when it is finished, a model."""
    inputs = {f"parent{index}": parent.fingerprint for index, parent in enumerate(parents)}
    spec = StageSpec(kind="train", name=name, settings={}, inputs=inputs, seed=0)
    directory = store.begin(spec)
    for file in ("checkpoints/step_000020/weights", "model/weights"):
        (directory / file).parent.mkdir(parents=True)
        (directory / file).write_bytes(b"x" * 1000)
    if finished:
        store.commit(spec, StageResult(fingerprint=spec.fingerprint, name=name, kind="train", model="model"))
    return spec


def report(store: Store, name: str) -> Path:
    folder = store.root / "reports" / name
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("a finding")
    return folder


def age(*folders: Path) -> None:
    """Nothing in ``folders`` was written for 40 days."""
    for folder in folders:
        for path in [folder, *folder.rglob("*")]:
            os.utime(path, (time.time() - OLD,) * 2, follow_symlinks=False)


def paths(store: Store, *kept: StageSpec) -> set[str]:
    found = removable(store, [spec.fingerprint for spec in kept], days=30)
    return {str(item.path.relative_to(store.root)) for item in found if item.kind != "checkpoints"}


def test_stages_of_a_kept_plan_and_young_ones_stay_with_all_they_were_made_from(store: Store) -> None:
    parent = stage(store, "pretrain")
    kept, young, stray = stage(store, "opd", parent), stage(store, "warmup", parent), stage(store, "stray", parent)
    age(*(store.dir(spec) for spec in (parent, kept, stray)))
    assert paths(store, kept) == {f"stages/{stray.id}"}
    age(store.dir(young))
    assert paths(store) == {f"stages/{spec.id}" for spec in (parent, kept, young, stray)}


def test_checkpoints_go_when_their_stage_is_finished_and_its_result_stays_whole(store: Store) -> None:
    done, running = stage(store, "done"), stage(store, "running", finished=False)
    found = removable(store, [], days=30)
    assert [(item.path, item.kind, item.bytes) for item in found] == [
        (store.dir(done) / "checkpoints", "checkpoints", 1000)
    ]
    assert "1 folders" in remove(found, store)
    assert store.result(done) is not None and not (store.dir(done) / "checkpoints").exists()
    assert (store.dir(running) / "checkpoints").exists()


def test_old_reports_go_but_for_the_latest(store: Store) -> None:
    old, latest, young = (report(store, name) for name in ("old", "latest-one", "young"))
    (store.root / "latest").symlink_to(latest.relative_to(store.root))
    age(old, latest)
    assert paths(store) == {"reports/old"}
    assert young.exists()


def test_saying_what_would_go_removes_nothing(store: Store) -> None:
    age(store.dir(stage(store, "stray")))
    before = sorted(store.root.rglob("*"))
    assert would_remove(removable(store, [], days=30), store).startswith("1 folders, 0.0 MB, would be removed")
    assert sorted(store.root.rglob("*")) == before


def test_a_stage_that_a_run_holds_or_has_written_to_since_is_left_and_named(store: Store) -> None:
    held, written, stray = (stage(store, name, finished=False) for name in ("held", "written", "stray"))
    age(*(store.dir(spec) for spec in (held, written, stray)))
    found = removable(store, [], days=30)
    (store.dir(written) / "metrics.jsonl").write_text("{}")
    with exclusive(store.stages / f"{held.id}.lock"):
        said = remove(found, store)
    assert held.id in said and written.id in said and stray.id not in said
    assert store.dir(held).is_dir() and store.dir(written).is_dir() and not store.dir(stray).exists()


def test_links_are_neither_followed_nor_removed(store: Store, tmp_path: Path) -> None:
    elsewhere = Store(tmp_path / "elsewhere")
    precious = elsewhere.dir(stage(elsewhere, "stray"))
    inside = stage(store, "inside")
    (store.stages / precious.name).symlink_to(precious)
    (store.dir(inside) / "more").symlink_to(precious)
    (store.root / "reports").symlink_to(report(elsewhere, "old").parent)
    age(elsewhere.root, store.dir(inside))
    assert paths(store) == {f"stages/{inside.id}"}
    remove(removable(store, [], days=30), store)
    assert not store.dir(inside).exists()
    assert (precious / "manifest.json").exists() and (elsewhere.root / "reports" / "old").exists()


def test_what_a_killed_removal_left_is_removed_by_the_next_one_and_never_found_as_a_stage(store: Store) -> None:
    spec = stage(store, "stray")
    directory = store.dir(spec)
    directory.rename(directory.with_name(f".{directory.name}{REMOVED}"))
    assert store.result(spec) is None and not list(store.stages.glob(f"*-{spec.fingerprint}"))
    found = removable(store, [], days=30)
    assert [item.kind for item in found] == ["leftover"]
    remove(found, store)
    assert not list(store.stages.iterdir())


def test_every_arm_of_the_kept_recipes_is_kept_under_the_kept_seeds(tmp_path: Path) -> None:
    settings = [f"store={tmp_path}"]
    _, one = prepare.prune(["smoke"], [0], settings)
    store, both = prepare.prune(["smoke", "small_world"], [0], settings)
    planned = prepare.ablations("smoke", None, [0], settings).plan
    assert set(planned.specs) == one < both
    assert store.root == tmp_path


def test_recipes_of_two_stores_are_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "other.yaml"
    recipe.write_text("extends: smoke\nstore: elsewhere\n")
    with pytest.raises(ConfigError, match="one store"):
        prepare.prune(["smoke", str(recipe)], [0], [])
