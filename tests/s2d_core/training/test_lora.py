"""Adapters: they alone are trained and saved; what leaves is a plain model with them merged in."""

import pytest
import torch
from ranks import FORWARD_KL, Ragged, context, stage
from tiny_geometries import VOCAB, model, teacher
from transformers import AutoModelForCausalLM, GPT2Config

from s2d_core.config.compose import load_config
from s2d_core.config.stages import LoraConfig
from s2d_core.errors import ConfigError
from s2d_core.plan import plan
from s2d_core.run_stage import run_stage
from s2d_core.store import Store
from s2d_core.training import checkpoint, parallel
from s2d_core.training.loop import train
from s2d_core.training.lora import adapt
from s2d_core.training.objectives import Divergence
from s2d_core.training.policy import Policy

LORA = LoraConfig(rank=4, alpha=8)


def trained(store, steps):
    policy = Policy(adapt(model("qwen3"), LORA, seed=3))
    target = Policy(teacher().requires_grad_(False))
    here = context(store, checkpoint_every=2, logits_chunk=64)
    with here.opened:
        train(here, stage(steps, 1e-2), policy, Ragged(VOCAB), Divergence(FORWARD_KL, 64, [(target, 1.0)]))
    return policy


def test_adapters_alone_are_trained_and_the_merged_model_is_the_adapted_one(tmp_path):
    policy, plain = trained(tmp_path, 3), model("qwen3")
    start = dict(plain.named_parameters())
    merged = dict(parallel.named_weights(policy))
    assert merged.keys() == start.keys()
    assert {name for name in start if not torch.equal(start[name], merged[name])} == {
        name for name in start if "_proj.weight" in name
    }
    ids = torch.arange(30)[None]
    before = plain(ids).logits
    plain.load_state_dict(merged, strict=False)
    policy.model.set_attn_implementation("sdpa")
    torch.testing.assert_close(plain(ids).logits, policy.model(ids).logits, atol=1e-4, rtol=1e-4)
    assert (before - plain(ids).logits).abs().max() > 0.01


def test_a_resumed_run_ends_like_an_uninterrupted_one_and_saves_no_frozen_weight(tmp_path):
    trained(tmp_path / "resumed", 2)
    (saved,) = (tmp_path / "resumed").glob("stages/*/checkpoints/step_000002")
    resumed, whole = trained(tmp_path / "resumed", 4), trained(tmp_path / "whole", 4)
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    frozen = sum(each.nbytes for each in whole.parameters() if not each.requires_grad)
    assert sum(file.stat().st_size for file in saved.iterdir()) < frozen / 4


def test_without_adapters_a_stage_keeps_its_fingerprint():
    config = load_config("smoke", [])
    assert "lora" not in config.stages.teacher_rl.model_dump(mode="json")


def test_layers_that_are_not_there_are_refused_in_words():
    other = AutoModelForCausalLM.from_config(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=10))
    with pytest.raises(ConfigError, match="gpt2 has no such layers"):
        adapt(other, LORA, seed=0)
    with pytest.raises(ConfigError, match="lm_head"):
        load_config("smoke", ["stages.teacher_rl.lora.targets=[lm_head]"])


@pytest.mark.slow
def test_grpo_trains_a_teachers_adapters_in_bfloat16_and_exports_a_plain_model(tmp_path):
    overrides = ["stages.teacher_rl.lora.rank=4", "training.dtype=bfloat16", "launch.mode=inproc", f"store={tmp_path}"]
    config = load_config("smoke", overrides)
    specs = {spec.name: spec for spec in plan(config, ["full"], [0]).specs.values()}
    for name in ("data", "pretrain_teacher", "teacher_rl"):
        run_stage(specs[name])
    assert parallel.join_alone(), "the stage left its group"
    parallel.leave()
    start, end = (
        AutoModelForCausalLM.from_pretrained(Store(tmp_path).dir(specs[name]) / "model", dtype="auto")
        for name in ("pretrain_teacher", "teacher_rl")
    )
    assert start.dtype == end.dtype == torch.bfloat16
    changed = {
        name
        for (name, ours), theirs in zip(end.named_parameters(), start.parameters(), strict=True)
        if not torch.equal(ours, theirs)
    }
    assert changed
    assert all("_proj.weight" in name for name in changed)
    assert len(checkpoint.checkpoints(Store(tmp_path).dir(specs["teacher_rl"]) / "checkpoints")) == 2
