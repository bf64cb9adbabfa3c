"""Low-rank adapters beside frozen weights (arXiv 2106.09685): W + (alpha / rank) · B A. peft makes the layers."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from s2d_core.config.stages import LoraConfig
from s2d_core.errors import ConfigError

ADAPTER = "default"


def adapt(model: PreTrainedModel, config: LoraConfig, seed: int) -> PreTrainedModel:
    """``model`` with adapters in its ``config.targets``, in place; they alone are trained, in float32.

    B starts at 0, so the model starts where it was. Raises ConfigError when the model has no such layers.
    """
    import peft

    settings = peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=list(config.targets))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            peft.inject_adapter_in_model(settings, model, adapter_name=ADAPTER)
        except ValueError as error:
            names = ", ".join(config.targets)
            raise ConfigError(f"lora.targets = {names}: {model.config.model_type} has no such layers") from error
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def merged_weights(model: PreTrainedModel, whole: Callable[[Tensor], Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Parameters under their Hugging Face names, adapters added in. ``whole``: a parameter, detached and unsharded."""
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            continue
        value, (owner, _, leaf) = whole(parameter), name.rpartition(".base_layer.")
        if owner and leaf == "weight":
            layer: Any = model.get_submodule(owner)
            up, down = (whole(factor[ADAPTER].weight).float() for factor in (layer.lora_B, layer.lora_A))
            value = value.float() + layer.scaling[ADAPTER] * (up @ down)
        yield f"{owner}.{leaf}" if owner else name, value
