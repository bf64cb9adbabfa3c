"""From configuration to an engine: inside this process, or a fleet of Ray actors."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from s2d_core.config.schema import RolloutsConfig
from s2d_core.rollouts.types import Engine

if TYPE_CHECKING:
    from s2d_core.rollouts.transfer import Transfer


def make_engine(path: Path, config: RolloutsConfig, *, eos_token_id: int, dtype: str, max_length: int) -> Engine:
    """An engine for the model in ``path``; with ``config.workers`` > 0, a fleet of that many."""
    factory = partial(
        _local_engine,
        str(path),
        config.engine,
        eos_token_id=eos_token_id,
        dtype=dtype,
        max_length=max_length,
        batch_size=config.batch_size,
        tensor_parallel=config.tensor_parallel,
        gpu_memory_utilization=config.gpu_memory_utilization,
        shares_device=config.workers == 0,
        weight_transfer=None if config.weight_transfer == "host" else config.weight_transfer,
    )
    if config.workers == 0:
        return factory()
    from s2d_core.rollouts.fleet import Fleet

    return Fleet(
        factory,
        config.workers,
        timeout_s=config.timeout_s,
        sync_timeout_s=config.sync_timeout_s,
        max_restarts=config.max_restarts,
        cpus=config.cpus_per_worker,
        gpus=config.gpus_per_worker,
        resources=config.resources_per_worker,
        transfer=_transfer(path, config),
    )


def _transfer(path: Path, config: RolloutsConfig) -> "Transfer | None":
    if config.weight_transfer == "host":
        return None
    from transformers import AutoConfig

    from s2d_core.rollouts.transfer import Transfer, open_engine

    return Transfer(
        partial(open_engine, config.weight_transfer, config.workers * config.tensor_parallel),
        tied=bool(AutoConfig.from_pretrained(path, trust_remote_code=False).tie_word_embeddings),
        ranks_each=config.tensor_parallel,
    )


def _local_engine(
    path: str,
    kind: str,
    *,
    eos_token_id: int,
    dtype: str,
    max_length: int,
    batch_size: int,
    tensor_parallel: int,
    gpu_memory_utilization: float,
    shares_device: bool,
    weight_transfer: str | None,
) -> Engine:
    if kind == "vllm":
        from s2d_core.rollouts.vllm_engine import VLLMEngine

        return VLLMEngine(
            path,
            eos_token_id,
            max_length=max_length,
            dtype=dtype,
            batch_size=batch_size,
            tensor_parallel=tensor_parallel,
            gpu_memory_utilization=gpu_memory_utilization,
            shares_device=shares_device,
            weight_transfer=weight_transfer,
        )
    import torch
    from transformers import AutoModelForCausalLM

    from s2d_core.rollouts.torch_engine import TorchEngine

    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=getattr(torch, dtype), use_safetensors=True, trust_remote_code=False
    )
    if torch.cuda.is_available():
        model = model.to(torch.device("cuda", torch.cuda.current_device()))  # type: ignore[arg-type]
    return TorchEngine(model, eos_token_id, batch_size)
