"""Ranks: sums over them, FSDP2 sharding, full weights out of it. Without torch.distributed: rank 0 of 1."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

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
    return _reduce(values, dist.ReduceOp.SUM, device)


def all_max(values: Sequence[float], device: torch.device | str = "cpu") -> list[float]:
    return _reduce(values, dist.ReduceOp.MAX, device)


def gather(value: Any) -> list[Any]:
    """``value`` of every rank, in rank order, on every rank."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def shard(policy: Policy) -> Policy:
    """Shard ``policy`` over all ranks with FSDP2, layer by layer; a single rank keeps it whole."""
    if world_size() == 1:
        return policy
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device().type, (world_size(),))
    layers: Any = policy.model.base_model.layers
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(policy, mesh=mesh)
    return policy


def gradient_scale() -> float:
    """FSDP averages gradients over ranks; our losses are parts of one sum, so each is scaled back up."""
    return float(world_size())


def named_weights(policy: Policy) -> Iterator[tuple[str, Tensor]]:
    """Whole parameters under their Hugging Face names, tied ones once. Collective when sharded."""
    for name, parameter in policy.model.named_parameters():
        yield name, full_tensor(parameter)


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _reduce(values: Sequence[float], op: Any, where: torch.device | str) -> list[float]:
    if world_size() == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64, device=where)
    dist.all_reduce(tensor, op=op)
    return tensor.tolist()
