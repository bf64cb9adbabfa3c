"""The mirror, on a folder and on a real S3 server: what is copied, what is believed, what a lost disk costs."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from s2d_core import mirror
from s2d_core.config.compose import load_config
from s2d_core.config.schema import Config
from s2d_core.errors import ConfigError, ResourceError
from s2d_core.mirror import Mirror, open_mirror
from s2d_core.plan import plan
from s2d_core.preflight import preflight
from s2d_core.run_stage import run_stage
from s2d_core.spec import StageResult, StageSpec
from s2d_core.store import Store, write_json

SPEC = StageSpec(kind="train", name="opd", settings={"steps": 2}, seed=0)


@pytest.fixture(params=["file", "s3"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty mirror."""
    if request.param == "file":
        return f"file://{tmp_path}/the%20mirror"
    bucket: str = request.getfixturevalue("bucket")
    return f"{bucket}/{tmp_path.name}/deep"


def finish(store: Store, spec: StageSpec = SPEC, files: int = 3) -> Path:
    """A finished stage with a checkpoint left over and ``files`` files of a model; its directory."""
    directory = store.begin(spec)
    for index in range(files):
        write(directory / "model" / f"{index}.safetensors", b"weights" * index)
    write(directory / "checkpoints" / "step_000002" / ".metadata", b"large")
    write(directory / "ledger.jsonl", b"{}\n")
    store.commit(spec, StageResult(fingerprint=spec.fingerprint, name=spec.name, kind=spec.kind, labels=3))
    return directory


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_a_finished_stage_comes_back_without_its_checkpoints(address: str, tmp_path: Path) -> None:
    here, there = Mirror(address, Store(tmp_path / "here")), Mirror(address, Store(tmp_path / "there"))
    here.check()
    assert here.finished([SPEC]) == set()
    written = contents(finish(here.store))
    here.send(SPEC)
    assert there.finished([SPEC]) == {SPEC.fingerprint}
    there.fetch(SPEC)
    assert there.store.result(SPEC) == here.store.result(SPEC)
    assert contents(there.store.dir(SPEC)) == {n: c for n, c in written.items() if not n.startswith("checkpoints")}


def test_the_newest_checkpoint_takes_the_place_of_an_older_one_and_the_result_of_both(
    address: str, tmp_path: Path
) -> None:
    here, there = Mirror(address, Store(tmp_path / "here")), Mirror(address, Store(tmp_path / "there"))
    folder = here.store.begin(SPEC) / "checkpoints"
    here.send(SPEC)
    there.fetch(SPEC)
    assert not there.store.dir(SPEC).exists()  # nothing to go on from, nothing copied
    for step in (2, 4):
        write(folder / f"step_{step:06d}" / ".metadata", b"whole")
        write(folder / ".step_000006.partial" / "__0_0.distcp", b"half of it")
        here.send(SPEC)
        there.fetch(SPEC)
        assert [path.name for path in (there.store.dir(SPEC) / "checkpoints").iterdir()] == [f"step_{step:06d}"]
        assert there.finished([SPEC]) == set()
        shutil.rmtree(there.store.dir(SPEC))
    finish(here.store)
    here.send(SPEC)
    base = f"{here.root}/{SPEC.id}"
    assert {name.split("-")[0] for name in here._listed(base)} == {"copy.json", "finished"}


def test_a_store_that_has_more_is_left_alone(tmp_path: Path) -> None:
    address = f"file://{tmp_path}/mirror"
    here, there = Mirror(address, Store(tmp_path / "here")), Mirror(address, Store(tmp_path / "there"))
    write(here.store.begin(SPEC) / "checkpoints" / "step_000004" / ".metadata", b"of here")
    here.send(SPEC)
    own = there.store.begin(SPEC) / "checkpoints" / "step_000002" / ".metadata"
    write(own, b"of there")
    there.fetch(SPEC)
    assert own.read_bytes() == b"of there"
    finish(here.store)
    here.send(SPEC)
    there.send(SPEC)  # unfinished there, finished in the mirror
    assert there.finished([SPEC]) == {SPEC.fingerprint}
    there.fetch(SPEC)
    assert there.store.result(SPEC) is not None


@pytest.mark.parametrize("name", ["0.safetensors", "2.safetensors"])
@pytest.mark.parametrize("damage", [b"wei", None])
def test_a_damaged_copy_is_not_believed_and_made_again(tmp_path: Path, name: str, damage: bytes | None) -> None:
    copies = Mirror(f"file://{tmp_path}/mirror", Store(tmp_path / "store"))
    directory = finish(copies.store)
    copies.send(SPEC)
    (path,) = (tmp_path / "mirror").rglob(name)
    path.unlink() if damage is None else path.write_bytes(damage)
    assert copies.finished([SPEC]) == set()
    copies.send(SPEC)
    assert copies.finished([SPEC]) == {SPEC.fingerprint}
    (directory / "model" / name).write_bytes(b"damaged here")
    copies.fetch(SPEC)
    assert copies.store.result(SPEC) is not None


def test_a_copy_that_was_killed_is_not_believed_and_its_remains_are_deleted(tmp_path: Path) -> None:
    copies = Mirror(f"file://{tmp_path}/mirror", Store(tmp_path / "store"))
    finish(copies.store, files=1500)
    write_json(tmp_path / "spec.json", SPEC.model_dump(mode="json"))
    code = f"""
from pathlib import Path
from s2d_core.mirror import Mirror
from s2d_core.spec import StageSpec
from s2d_core.store import Store
spec = StageSpec.model_validate_json(Path({str(tmp_path / "spec.json")!r}).read_text())
Mirror({copies.uri!r}, Store({str(copies.store.root)!r})).send(spec)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "mirror").rglob("*.safetensors"))) < 50:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (cut_short,) = (tmp_path / "mirror" / SPEC.id).iterdir()
    assert 50 <= len(contents(cut_short)) < 1500
    assert copies.finished([SPEC]) == set()
    copies.send(SPEC)
    assert copies.finished([SPEC]) == {SPEC.fingerprint}
    assert not cut_short.exists()


def test_a_torn_index_is_no_copy(tmp_path: Path) -> None:
    copies = Mirror(f"file://{tmp_path}/mirror", Store(tmp_path / "store"))
    finish(copies.store)
    copies.send(SPEC)
    index = tmp_path / "mirror" / SPEC.id / mirror.INDEX
    index.write_text(index.read_text()[:40])
    assert copies.finished([SPEC]) == set()


def test_an_imported_model_is_not_copied_for_it_names_a_folder_of_this_machine(tmp_path: Path) -> None:
    copies = Mirror(f"file://{tmp_path}/mirror", Store(tmp_path / "store"))
    spec = SPEC.model_copy(update={"kind": "base"})
    finish(copies.store, spec)
    copies.send(spec)
    assert not (tmp_path / "mirror").exists()


class DiskLostError(Exception):
    pass


@pytest.mark.slow
def test_a_stage_whose_disk_is_lost_goes_on_from_the_mirror_and_ends_bit_equal(tmp_path: Path) -> None:
    short = ["stages.pretrain_student.steps=2", "stages.student_rl.steps=8", "rollouts.staleness=1"]
    calm, hit = (load_config("smoke", [f"store={tmp_path / name}", *short]) for name in ("calm", "hit"))
    config = hit.model_copy(update={"mirror": f"file://{tmp_path}/mirror"})
    copies = open_mirror(config)
    assert copies
    for spec in (calm_specs := by_name(calm)).values():
        run_stage(spec)
    shutil.copytree(calm.store, hit.store, ignore=shutil.ignore_patterns("student_rl-*"))
    spec = by_name(hit)["student_rl"]

    def lose_the_disk_after_a_copy(metrics: dict[str, float], checkpoint: Path | None) -> None:
        if checkpoint and checkpoint.name == "step_000004":
            while copies._newest(spec) is None:
                time.sleep(0.01)
            raise DiskLostError

    with copies.following(spec), pytest.raises(DiskLostError):
        run_stage(spec, lose_the_disk_after_a_copy)
    shutil.rmtree(copies.store.dir(spec))
    copies.fetch(spec)
    resumed = run_stage(spec)
    log = (copies.store.dir(spec) / "stage.log").read_text()
    assert log.count("steps 1 to 8") == 1 and re.search("steps [357] to 8", log)
    other = Store(calm.store).dir(calm_specs["student_rl"])
    assert without_times(copies.store.dir(spec)) == without_times(other)
    assert resumed.labels == Store(calm.store).result(calm_specs["student_rl"]).labels  # type: ignore[union-attr]
    model = "model/model.safetensors"
    assert (copies.store.dir(spec) / model).read_bytes() == (other / model).read_bytes()


def by_name(config: Config) -> dict[str, StageSpec]:
    return {spec.name: spec for spec in plan(config, ["direct_grpo"], [0]).specs.values() if spec.kind != "evaluate"}


def without_times(directory: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if "second" not in name} for line in lines]


@pytest.mark.parametrize("wrong", ["/a/folder", "file:folder", "file://host/folder", "ftp://host/x", "s3:///x", "gs:x"])
def test_what_is_no_address_of_a_mirror_is_refused_and_the_allowed_ones_named(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"mirror = .*s3://bucket/prefix, gs://bucket/prefix or file:///folder"):
        load_config("smoke", [f"mirror={wrong}"])


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_credentials_in_an_address_are_refused(scheme: str) -> None:
    with pytest.raises(ConfigError, match="environment"):
        load_config("smoke", [f"mirror={scheme}://key:secret@bucket/prefix"])


def test_a_mirror_is_no_part_of_any_stage(smoke: Config) -> None:
    mirrored = load_config("smoke", [f"store={smoke.store}", "launch.mode=inproc", "mirror=s3://bucket/prefix"])
    assert plan(mirrored, None, [0]) == plan(smoke, None, [0])


def test_every_kind_of_address_has_its_file_system(bucket: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    found = {uri: Mirror(uri, store) for uri in (f"{bucket}/a/b/", "gs://bucket/a", f"file://{tmp_path}/a%20b")}
    assert [each.files.type_name for each in found.values()] == ["s3", "gcs", "local"]
    assert [each.root for each in found.values()] == [f"{bucket[5:]}/a/b", "bucket/a", f"{tmp_path}/a b"]


def test_a_mirror_that_cannot_be_written_to_is_one_error_before_anything_starts(
    smoke: Config, bucket: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for uri in (f"file://{tmp_path}/file/mirror", "s3://no-such-bucket/prefix"):
        with pytest.raises(ResourceError, match="credentials in the environment") as caught:
            preflight(smoke.model_copy(update={"mirror": uri}))
        assert uri in str(caught.value) and "\n" not in str(caught.value)
    assert not Path(smoke.store).exists()


def test_a_mirror_is_checked_without_leaving_a_file(smoke: Config, bucket: str, tmp_path: Path) -> None:
    for uri in (f"file://{tmp_path}/mirror", f"{bucket}/checked"):
        preflight(smoke.model_copy(update={"mirror": uri}))
        copies = Mirror(uri, Store(smoke.store))
        assert copies._listed(copies.root) == {}


def test_pyarrow_is_imported_for_a_mirror_only() -> None:
    code = "import sys, s2d_core.mirror, tasks.planning; assert not any('pyarrow' in name for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
