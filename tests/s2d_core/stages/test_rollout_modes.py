"""Where and when rollouts are sampled: inside the trainer, by a fleet, or a step ahead; stages killed and resumed."""

import json
import shutil
from statistics import mean

import pytest
from safetensors.torch import load_file

from s2d_core.config.compose import load_config
from s2d_core.errors import CheckpointError
from s2d_core.plan import plan
from s2d_core.run_stage import run_stage
from s2d_core.store import Store

pytestmark = pytest.mark.slow
STEPS = 24
SETTINGS = [f"stages.{name}.steps={STEPS}" for name in ("teacher_rl", "opd")] + ["training.checkpoint_every=8"]
PARENTS = ("data", "pretrain_teacher", "pretrain_student")


def planned(store, *overrides, seed=0):
    of = plan(load_config("smoke", [*SETTINGS, f"store={store}", *overrides]), ["full"], [seed])
    return {spec.name: spec for spec in of.specs.values() if spec.kind != "evaluate"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A store with the base models alone."""
    store = tmp_path_factory.mktemp("base")
    for name in PARENTS:
        run_stage(planned(store)[name])
    return store


def run(base, store, name, *overrides, report=None):
    """``name`` of the smoke recipe, from the untrained models, in a store of its own; returns its directory."""
    specs = planned(store, *overrides)
    (store / "stages").mkdir(parents=True, exist_ok=True)
    for parent in PARENTS:
        if not (link := Store(store).dir(specs[parent])).exists():
            link.symlink_to(Store(base).dir(specs[parent]))
    models = {"policy": "pretrain_student", "teacher": "pretrain_teacher"}
    inputs = {role: specs[models.get(role, "data")].fingerprint for role in specs[name].inputs}
    spec = specs[name].model_copy(update={"inputs": inputs})
    spec = type(spec).model_validate(spec.model_dump())
    run_stage(spec, *filter(None, [report]))
    return Store(store).dir(spec)


def metrics(directory):
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if "second" not in name} for line in lines]


def assert_equal(one, other):
    assert metrics(one) == metrics(other)
    ours, theirs = (load_file(each / "model" / "model.safetensors") for each in (one, other))
    assert all((ours[key] == theirs[key]).all() for key in theirs)


class Killed(BaseException):
    """Not an error of the stage's own: nothing catches it."""


def kill_after(checkpoints):
    seen = []

    def report(values, checkpoint):
        seen.append(checkpoint)
        if len(seen) == checkpoints:
            raise Killed

    return report


def final_kl(directory):
    return mean(line["kl"] for line in metrics(directory)[-6:])


def test_a_step_ahead_learns_as_much_as_in_step(base, tmp_path):
    fresh = run(base, tmp_path / "fresh", "opd")
    stale = run(base, tmp_path / "stale", "opd", "rollouts.staleness=1")
    assert final_kl(fresh) < 0.7 * metrics(fresh)[0]["kl"]  # there is something to learn
    assert final_kl(stale) == pytest.approx(final_kl(fresh), rel=0.2)
    assert [line["staleness"] for line in metrics(stale)] == [0.0] + [1.0] * (STEPS - 1)


@pytest.mark.parametrize("name", ["opd", "teacher_rl"])
def test_a_stage_that_samples_ahead_and_is_killed_ends_bit_equal_to_an_undisturbed_one(base, tmp_path, name):
    calm = run(base, tmp_path / "calm", name, "rollouts.staleness=1")
    with pytest.raises(Killed):
        run(base, tmp_path / "hit", name, "rollouts.staleness=1", report=kill_after(2))
    assert_equal(run(base, tmp_path / "hit", name, "rollouts.staleness=1"), calm)


def test_refilled_batches_are_charged_for_every_look_and_survive_a_kill(base, tmp_path):
    setting = "stages.teacher_rl.policy_gradient.refill_rounds=2"
    calm = run(base, tmp_path / "calm", "teacher_rl", setting)
    entries = [json.loads(line) for line in (calm / "ledger.jsonl").read_text().splitlines()]
    looks = sum(len(entry["problems"]) for entry in entries)
    assert looks == sum(8 + line.get("refilled_groups", 0) for line in metrics(calm)) > 8 * STEPS
    assert all(8 + line.get("refilled_groups", 0) <= 32 for line in metrics(calm))
    with pytest.raises(Killed):
        run(base, tmp_path / "hit", "teacher_rl", setting, report=kill_after(2))
    assert_equal(run(base, tmp_path / "hit", "teacher_rl", setting), calm)


def test_students_that_share_the_teacher_s_rollouts_read_the_same_ones(base, tmp_path):
    shared = "rollouts.share_teacher=true"
    first = run(base, tmp_path, "warmup", shared)
    (folder,) = (tmp_path / "rollouts").iterdir()
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    second = run(base, tmp_path, "warmup", shared, "stages.warmup.optimiser.lr=1e-3")
    assert first != second
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == written
    assert not any((directory / "rollouts").exists() for directory in (first, second))  # no samples of their own


TOP_K = ["stages.warmup.divergence.estimator=top_k", "stages.warmup.divergence.top_k=8", "rollouts.share_teacher=true"]
ALL_PROMPTS = "arms.full.stages.1.set.prompts_per_step=32"  # in every step, whatever their order
CACHED = [*TOP_K, "stages.warmup.cache_top_k=true", "training.checkpoint_every=1"]


def test_a_warmup_from_the_stored_top_k_learns_what_the_live_one_does(base, tmp_path):
    live, stored = (metrics(run(base, tmp_path, "warmup", ALL_PROMPTS, *each)) for each in (TOP_K, CACHED))
    (folder,) = (tmp_path / "rollouts").iterdir()
    assert len(list(folder.glob("*.parquet"))) == len(list(folder.glob("*.top8-of-*.safetensors"))) == 1
    for ours, theirs in zip(stored, live, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)


def test_a_second_student_needs_no_teacher_and_one_that_was_killed_ends_the_same(base, tmp_path):
    calm = run(base, tmp_path / "calm", "warmup", *CACHED)
    with pytest.raises(Killed):
        run(base, tmp_path / "hit", "warmup", *CACHED, report=kill_after(2))
    link = Store(tmp_path / "hit").dir(planned(tmp_path / "hit")["pretrain_teacher"])
    whole = link.resolve()
    link.unlink()
    shutil.copytree(whole, link)
    weights = link / "model" / "model.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))  # nobody can load this
    assert_equal(run(base, tmp_path / "hit", "warmup", *CACHED), calm)
    run(base, tmp_path / "hit", "warmup", *CACHED, "stages.warmup.optimiser.lr=1e-3")
    with pytest.raises(CheckpointError, match="cannot load the model"):
        run(base, tmp_path / "hit", "warmup", *TOP_K)


def test_a_warmup_that_is_killed_does_not_sample_its_teacher_again(base, tmp_path):
    calm = run(base, tmp_path / "calm", "warmup", "training.checkpoint_every=1")
    with pytest.raises(Killed):
        run(base, tmp_path / "hit", "warmup", "training.checkpoint_every=1", report=kill_after(2))
    (shard,) = (tmp_path / "hit").glob("stages/warmup-*/rollouts/*.parquet")
    before = shard.stat().st_mtime_ns
    assert_equal(run(base, tmp_path / "hit", "warmup", "training.checkpoint_every=1"), calm)
    assert shard.stat().st_mtime_ns == before


@pytest.fixture
def cluster():
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=100 << 20,
        log_to_driver=False,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
    )
    yield
    ray.shutdown()


@pytest.mark.parametrize("staleness", [0, 1])
def test_a_fleet_s_rollouts_train_what_the_trainer_s_own_do_to_the_last_bit(base, tmp_path, cluster, staleness):
    settings = [f"rollouts.staleness={staleness}", "stages.opd.steps=8"]
    colocated = run(base, tmp_path / "colocated", "opd", *settings)
    fleet = run(base, tmp_path / "fleet", "opd", *settings, "rollouts.workers=2")
    assert_equal(fleet, colocated)
