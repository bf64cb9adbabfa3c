"""Two FSDP2 ranks and one process: the same ten steps on the real architectures, and each other's checkpoints."""

import shutil
import weakref

import pytest
import torch
from ranks import FORWARD_KL, Ragged, context, on_ranks, stage
from safetensors.torch import load_file, save_file
from tiny_geometries import GEOMETRIES, VOCAB, model, teacher

from s2d_core.rollouts.types import Rollout
from s2d_core.training import parallel
from s2d_core.training.curation import nearest
from s2d_core.training.loop import train
from s2d_core.training.objectives import Divergence
from s2d_core.training.policy import Policy
from s2d_core.training.teacher_cache import TeacherTopK
from tests.s2d_core.training.test_teacher_cache import shards

pytestmark = pytest.mark.slow

STOP, STEPS = 3, 6


def distil(store, steps, name="qwen3", dtype=torch.float32) -> None:
    """Forward KL from a sharded teacher, in micro-batches of at most 64 tokens, from the newest checkpoint on."""
    policy = parallel.shard(Policy(model(name), dtype))
    frozen = parallel.shard(Policy(teacher().requires_grad_(False)))
    here = context(store, token_budget=64, checkpoint_every=STOP, logits_chunk=32)
    with here.opened:
        train(here, stage(steps, lr=1e-4), policy, Ragged(VOCAB), Divergence(FORWARD_KL, 32, [(frozen, 1.0)]))
    weights = dict(parallel.named_weights(policy))
    if parallel.rank() == 0:
        save_file(weights, store / "end.safetensors")


def store_top_k(folder) -> None:
    """Three shards of rollouts for a teacher that all ranks read together."""
    requests = shards(folder) if parallel.rank() == 0 else []
    share = parallel.gather(requests)[0][parallel.rank() :: parallel.world_size()]
    alive = []

    def load():
        policy = parallel.shard(Policy(teacher().requires_grad_(False)))
        alive.append(weakref.ref(policy))
        return policy

    found = TeacherTopK(load, 5, VOCAB, token_budget=64, chunk=8).stored(folder, share)
    assert [group[0].problem_id for group in found] == [request.problem_id for request in share]
    assert [reference() for reference in alive] == [None]


def choose_nearest() -> None:
    """Groups only the first rank has, read by a policy that both hold a half of."""
    policy = parallel.shard(Policy(teacher().requires_grad_(False)))
    groups = [[Rollout("a", (1, 2), [token, 3], [0.0, 0.0], "stop") for token in range(4)]] * (1 - parallel.rank())
    chosen = nearest(policy, groups, 2, token_budget=8)
    assert [len(group) for group in chosen] == [2] * len(groups)


def what_two_do(root) -> None:
    choose_nearest()
    store_top_k(root / "top_k_two")
    for name in GEOMETRIES:
        distil(root / f"{name}_two", 10, name)
    distil(root / "one_then_two", STEPS)
    distil(root / "two_then_two", STOP)
    distil(root / "two_then_two", STEPS)
    distil(root / "two_then_one", STOP)
    distil(root / "bfloat16_two", STOP, dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("ranks")
    names = ("qwen3_one", "qwen3_two", "llama_one", "llama_two", "one", "one_then_two", "two_then_two", "two_then_one")
    for name in (*names, "bfloat16_one", "bfloat16_two", "top_k_one", "top_k_two"):
        (root / name).mkdir()
    store_top_k(root / "top_k_one")
    for name in GEOMETRIES:
        distil(root / f"{name}_one", 10, name)
    distil(root / "one", STEPS)
    distil(root / "one_then_two", STOP)
    assert parallel.join_alone()
    distil(root / "bfloat16_one", STOP, dtype=torch.bfloat16)
    parallel.leave()
    on_ranks(2, what_two_do, root)
    distil(root / "two_then_one", STEPS)
    yield root
    shutil.rmtree(root)


def end(root, name) -> dict[str, torch.Tensor]:
    return load_file(root / name / "end.safetensors")


@pytest.mark.parametrize("name", GEOMETRIES)
def test_ten_steps_on_two_ranks_end_where_one_process_ends(root, name):
    start, two, one = dict(model(name).named_parameters()), end(root, f"{name}_two"), end(root, f"{name}_one")
    assert two.keys() == one.keys() == start.keys()
    for key in one:
        torch.testing.assert_close(two[key], one[key], atol=1e-4, rtol=0)
        moved = (one[key] - start[key]).norm()
        assert (two[key] - one[key]).norm() < 0.05 * moved, f"{key}: not even the direction is the same"


@pytest.mark.parametrize("way", ["one_then_two", "two_then_two", "two_then_one"])
def test_a_checkpoint_is_resumed_on_any_number_of_ranks(root, way):
    log = root / way / "stages"
    assert [len(file.read_text().splitlines()) for file in log.glob("*/metrics.jsonl")] == [STEPS]
    expected, got = end(root, "one"), end(root, way)
    for key in expected:
        torch.testing.assert_close(got[key], expected[key], atol=1e-4, rtol=0)


def test_two_ranks_store_what_one_does_of_their_teacher(root):
    one, two = (sorted((root / f"top_k_{ranks}").glob("*.safetensors")) for ranks in ("one", "two"))
    assert [path.name for path in one] == [path.name for path in two]
    assert len(one) == 3, "an odd number: one rank reads on while the other has nothing left"
    for ours, theirs in zip(one, two, strict=True):
        torch.testing.assert_close(load_file(ours), load_file(theirs))


def test_two_ranks_in_bfloat16_train_what_one_does(root):
    start, two, one = dict(model("qwen3").named_parameters()), end(root, "bfloat16_two"), end(root, "bfloat16_one")
    for key in one:
        assert two[key].dtype == torch.bfloat16
        moved = (one[key].float() - start[key]).norm()
        assert (two[key].float() - one[key].float()).norm() <= 0.5 * moved
