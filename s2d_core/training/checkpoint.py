"""Checkpoints inside a stage (weights, optimiser, random state, data cursor) and the final Hugging Face folder.

A checkpoint is written under a temporary name and renamed when every rank is done: whatever carries the final
name is whole. Written with torch.distributed.checkpoint, so another number of ranks can resume it.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from transformers import PreTrainedTokenizerBase

from s2d_core.store import write_json
from s2d_core.training import parallel
from s2d_core.training.policy import Policy


def save(directory: Path, step: int, policy: Policy, optimiser: torch.optim.Optimizer, keep: int) -> Path:
    """Save the state after ``step`` updates; keeps the newest ``keep`` checkpoints. Collective."""
    final = directory / f"step_{step:06d}"
    partial = directory / f".{final.name}.partial"
    if parallel.rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    parallel.barrier()
    model_state, optimiser_state = get_state_dict(policy, optimiser)
    state = {"model": model_state, "optimiser": optimiser_state, "rng": torch.get_rng_state()}
    dcp.save(state, checkpoint_id=str(partial), no_dist=parallel.world_size() == 1)
    parallel.barrier()
    if parallel.rank() == 0:
        write_json(partial / "cursor.json", {"step": step})
        partial.rename(final)
        for old in checkpoints(directory)[:-keep]:
            shutil.rmtree(old)
    parallel.barrier()
    return final


def checkpoints(directory: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(directory.glob("step_*"))


def restore(directory: Path, policy: Policy, optimiser: torch.optim.Optimizer) -> int:
    """Load the newest checkpoint if there is one; returns the number of updates already done. Collective."""
    found = checkpoints(directory)
    if not found:
        return 0
    model_state, optimiser_state = get_state_dict(policy, optimiser)
    state: dict[str, Any] = {"model": model_state, "optimiser": optimiser_state, "rng": torch.get_rng_state()}
    dcp.load(state, checkpoint_id=str(found[-1]), no_dist=parallel.world_size() == 1)
    set_state_dict(policy, optimiser, model_state_dict=state["model"], optim_state_dict=state["optimiser"])
    torch.set_rng_state(state["rng"])
    return int(json.loads((found[-1] / "cursor.json").read_text())["step"])


def export(directory: Path, policy: Policy, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write ``directory`` as a Hugging Face folder (safetensors, config, tokenizer). Collective."""
    weights = {name: value.cpu() for name, value in parallel.named_weights(policy)}
    if parallel.rank() == 0:
        partial = directory.with_name(f".{directory.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        policy.model.set_attn_implementation("sdpa")
        policy.model.save_pretrained(partial, state_dict=weights)
        tokenizer.save_pretrained(partial)
        shutil.rmtree(directory, ignore_errors=True)
        partial.rename(directory)
    parallel.barrier()
