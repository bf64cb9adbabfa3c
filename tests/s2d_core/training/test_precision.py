"""bfloat16 computes; float32 remembers. Offloading changes where, not what."""

import pytest
import torch
from ranks import FORWARD_KL, Ragged, context, stage
from tiny_geometries import VOCAB, model, teacher

from s2d_core.training import parallel
from s2d_core.training.loop import train
from s2d_core.training.objectives import Divergence
from s2d_core.training.policy import Policy


@pytest.fixture
def group():
    assert parallel.join_alone()
    yield
    parallel.leave()


def trained(store, policy, lr, steps=4):
    target = Policy(teacher().requires_grad_(False).to(policy.dtype))
    here = context(store, checkpoint_every=2, logits_chunk=64)
    with here.opened:
        train(here, stage(steps, lr), policy, Ragged(VOCAB), Divergence(FORWARD_KL, 64, [(target, 1.0)]))
    return policy


def test_updates_far_below_bfloat16s_resolution_are_kept(group, tmp_path):
    policy = parallel.shard(Policy(model("qwen3"), torch.bfloat16))
    seen = []
    policy.model.base_model.layers[0].mlp.up_proj.register_forward_hook(lambda _, args, out: seen.append(out.dtype))
    trained(tmp_path, policy, lr=1e-6)
    assert set(seen) == {torch.bfloat16}
    start = dict(model("qwen3").named_parameters())
    for name, parameter in policy.model.named_parameters():
        moved = (parameter.full_tensor() - start[name]).abs()
        assert parameter.dtype == torch.float32
        assert 0 < moved.max() < 1e-5
    weights = dict(parallel.named_weights(policy))
    assert all(value.dtype == torch.bfloat16 for value in weights.values())
    resumed = trained(tmp_path, parallel.shard(Policy(model("qwen3"), torch.bfloat16)), lr=1e-6)  # nothing left to do
    for ours, theirs in zip(resumed.parameters(), policy.parameters(), strict=True):
        assert torch.equal(ours.full_tensor(), theirs.full_tensor())


def test_bfloat16_learns_what_float32_learns(group, tmp_path):
    exact = trained(tmp_path / "float32", Policy(model("qwen3")), lr=1e-3)
    rounded = trained(tmp_path / "bfloat16", parallel.shard(Policy(model("qwen3"), torch.bfloat16)), lr=1e-3)
    start = dict(model("qwen3").named_parameters())
    (embedding,) = (name for name in start if "embed_tokens" in name)
    ours, theirs = (dict(policy.model.named_parameters())[embedding] for policy in (rounded, exact))
    moves = torch.stack([(each.detach() - start[embedding]).flatten() for each in (ours.full_tensor(), theirs)])
    assert torch.nn.functional.cosine_similarity(*moves, dim=0) > 0.9


def test_offloading_changes_no_number(group, tmp_path):
    plain = trained(tmp_path / "plain", Policy(model("qwen3")), lr=1e-3)
    offloaded = trained(tmp_path / "offloaded", parallel.shard(Policy(model("qwen3")), offload=True), lr=1e-3)
    for ours, theirs in zip(offloaded.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.full_tensor(), theirs, atol=1e-6, rtol=0)
