"""Ranks: sums over them, FSDP2 sharding, full weights out of it. Without torch.distributed: rank 0 of 1."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from s2d_core.training.lora import merged_weights
from s2d_core.training.optimiser import full_tensor
from s2d_core.training.policy import Policy


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    if world_size() > 1:
        dist.barrier()


def all_sum(values: Sequence[float], device: torch.device | str = "cpu") -> list[float]:
    """Element-wise sum over ranks, in float64."""
    if world_size() == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.tolist()


def gather(value: Any) -> list[Any]:
    """``value`` of every rank, in rank order, on every rank."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def join_alone() -> bool:
    """Make this process a group of its own unless it is in one; whether it did. Mixed precision needs a group."""
    if dist.is_initialized():
        return False
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    return True


def leave() -> None:
    dist.destroy_process_group()


def is_mixed(policy: Policy) -> bool:
    """Whether trained weights are held in another dtype than is computed in."""
    return any(each.requires_grad and each.dtype != policy.dtype for each in policy.parameters())


def shard(policy: Policy, offload: bool = False) -> Policy:
    """Shard ``policy`` over all ranks with FSDP2, layer by layer; a single rank keeps it whole if it can.

    Trained weights wider than ``policy.dtype`` are gathered in that dtype; gradients are reduced and added up in
    float32. offload: weights, gradients and optimiser live, and are updated, in the host's memory.
    """
    mixed = is_mixed(policy)
    if world_size() == 1 and not mixed and not offload:
        return policy
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard

    settings: dict[str, Any] = {"mesh": init_device_mesh(device().type, (world_size(),))}
    if mixed:
        settings["mp_policy"] = MixedPrecisionPolicy(param_dtype=policy.dtype, reduce_dtype=torch.float32)
    if offload:
        settings["offload_policy"] = CPUOffloadPolicy(pin_memory=torch.cuda.is_available())
    layers: Any = policy.model.base_model.layers
    for layer in layers:
        fully_shard(layer, **settings)
    fully_shard(policy, **settings)
    return policy


def gradient_scale() -> float:
    """FSDP averages gradients over ranks; our losses are parts of one sum, so each is scaled back up."""
    return float(world_size())


def named_weights(policy: Policy) -> Iterator[tuple[str, Tensor]]:
    """Whole parameters in ``policy.dtype`` under their Hugging Face names, tied ones once. Collective when sharded."""
    for name, value in merged_weights(policy.model, full_tensor):
        yield name, value.to(policy.dtype)


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
