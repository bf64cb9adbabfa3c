"""AdamW and its learning-rate schedule, as a pure function of the step."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from s2d_core.config.stages import OptimiserConfig


def learning_rate(config: OptimiserConfig, step: int, steps: int) -> float:
    """Rate of update ``step`` (0-based) of ``steps``: linear warm-up, then decay reached at the last update."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / (config.warmup_steps + 1)
    progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    remaining = {
        "constant": 1.0,
        "linear": 1.0 - progress,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
    }[config.decay]
    return config.lr * (config.final_lr_ratio + (1.0 - config.final_lr_ratio) * remaining)


def make_optimiser(parameters: Iterable[nn.Parameter], config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW over those of ``parameters`` that are trained; weight decay spares vectors (norms, biases)."""
    parameters = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=config.betas, fused=True)


def update(optimiser: torch.optim.Optimizer, config: OptimiserConfig, lr: float) -> float:
    """Clip, step and clear; returns the gradient's norm before clipping."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip)
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # sharded parameters
    for group in optimiser.param_groups:
        group["lr"] = lr
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return float(norm)


def full_tensor(parameter: Tensor) -> Tensor:
    """The whole of a possibly sharded parameter, detached. Collective when it is sharded."""
    value = parameter.detach()
    return value.full_tensor() if hasattr(value, "full_tensor") else value
