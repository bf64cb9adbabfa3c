"""Checkpoints inside a stage (weights, optimiser, random state, data cursor) and the final Hugging Face folder.

Saving copies the state and returns; a thread writes the copy under a temporary name, which is changed when every rank
is done: whatever carries the final name is whole. Written with torch.distributed.checkpoint, so another number of
ranks can resume it. What is frozen is not saved.
"""

import json
import shutil
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from transformers import PreTrainedTokenizerBase

from s2d_core.store import checkpoints, write_json
from s2d_core.training import parallel
from s2d_core.training.policy import Policy

TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)


class Saver:
    """Writes checkpoints into ``directory``, one at a time, and keeps the newest ``keep``. Collective."""

    def __init__(self, directory: Path, keep: int) -> None:
        self.directory, self.keep = directory, keep
        self._writing: tuple[Path, Future[Any]] | None = None
        # The ranks' writing threads agree among themselves while the loop's own collectives go on.
        self._group = dist.new_group(backend="gloo") if dist.is_initialized() else None

    def save(self, step: int, policy: Policy, optimiser: torch.optim.Optimizer) -> Path | None:
        """Start saving the state after ``step`` updates, which may change as soon as this returns.

        Waits for the save before it; returns that one's folder.
        """
        previous = self.wait()
        final = self.directory / f"step_{step:06d}"
        partial = self.directory / f".{final.name}.partial"
        if parallel.rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        parallel.barrier()
        future = dcp.async_save(
            _state(policy, optimiser),
            storage_writer=_Writer(partial, final, step, self.keep),
            process_group=self._group,
            no_dist=parallel.world_size() == 1,
        )
        assert isinstance(future, Future)
        self._writing = final, future
        return previous

    def wait(self) -> Path | None:
        """Wait for the save under way, if any; returns its folder."""
        if self._writing is None:
            return None
        (final, future), self._writing = self._writing, None
        future.result()
        return final

    def close(self) -> None:
        self.wait()


class _Writer(dcp.FileSystemWriter):
    """Names the folder when the last rank has written its part; ``finish`` runs on one rank, before any may go on."""

    def __init__(self, partial: Path, final: Path, step: int, keep: int) -> None:
        super().__init__(partial)
        self.partial, self.final, self.step, self.keep = partial, final, step, keep

    def finish(self, metadata: Any, results: Any) -> None:
        super().finish(metadata, results)
        write_json(self.partial / "cursor.json", {"step": self.step})
        self.partial.rename(self.final)
        for old in checkpoints(self.final.parent)[: -self.keep]:
            old.rename(old.with_name(f".{old.name}.old"))  # it may be being copied: what has the name stays whole
        for leftover in self.final.parent.glob(".step_*"):
            shutil.rmtree(leftover)


def restore(directory: Path, policy: Policy, optimiser: torch.optim.Optimizer) -> int:
    """Load the newest checkpoint if there is one; returns the number of updates already done. Collective."""
    found = checkpoints(directory)
    if not found:
        return 0
    state = _state(policy, optimiser)
    dcp.load(state, checkpoint_id=str(found[-1]), no_dist=parallel.world_size() == 1)
    set_state_dict(
        policy, optimiser, model_state_dict=state["model"], optim_state_dict=state["optimiser"], options=TRAINED
    )
    torch.set_rng_state(state["rng"])
    return int(json.loads((found[-1] / "cursor.json").read_text())["step"])


def _state(policy: Policy, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    model, adamw = get_state_dict(policy, optimiser, options=TRAINED)
    return {"model": model, "optimiser": adamw, "rng": torch.get_rng_state()}


def export(directory: Path, policy: Policy, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write ``directory`` as a Hugging Face folder (safetensors, config, tokenizer). Collective."""
    weights = {name: value.cpu() for name, value in parallel.named_weights(policy)}
    if parallel.rank() == 0:
        partial = directory.with_name(f".{directory.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        policy.model.set_attn_implementation("sdpa")
        policy.model.save_pretrained(partial, state_dict=weights)
        policy.model.config.dtype = policy.dtype  # not that of the float32 weights behind them
        policy.model.config.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        shutil.rmtree(directory, ignore_errors=True)
        partial.rename(directory)
    parallel.barrier()
