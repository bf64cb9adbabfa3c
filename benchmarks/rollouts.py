"""Weight sync and rollout throughput: ``python benchmarks/rollouts.py [--engine torch] [--workers 0 2]``.

On GPUs: ``--engine vllm --workers 1 2 --weight-transfer host nccl``.

Random weights of the geometry asked for, and completions that run to the limit. For each placement (0 workers: the
engine in this process; more: a fleet of Ray actors, with each way that weights may reach them) the seconds of a weight
update and the tokens sampled a second, as [median, least, most]; written as JSON beside what machine made them.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from s2d_core.config.schema import RolloutsConfig
from s2d_core.rollouts import make_engine
from s2d_core.rollouts.types import Request, Sampling

RESULTS = Path(__file__).parent / "results"
NO_TOKEN = -1  # nothing ends a completion but its limit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="torch", choices=["torch", "vllm"])
    parser.add_argument("--workers", type=int, nargs="+", default=[0])
    parser.add_argument("--weight-transfer", nargs="+", default=["host"], choices=["host", "nccl", "ipc"])
    parser.add_argument("--hidden", type=int, default=96)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--vocab", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--output", type=Path, default=RESULTS / "rollouts.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    placements: dict[str, dict[str, list[float]]] = {}
    results = {
        "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "arguments": {name: value for name, value in vars(arguments).items() if name != "output"},
        "placements": placements,
    }
    if any(arguments.workers):
        import ray

        # A cluster of its own, whatever head runs on the machine.
        ray.init(address="local", num_cpus=max(arguments.workers), include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        model = random_model(arguments)
        model.save_pretrained(folder)
        for workers in arguments.workers:
            for transfer in arguments.weight_transfer if workers else ["host"]:
                name = f"{workers} workers" if transfer == "host" else f"{workers} workers, {transfer}"
                config = rollouts(arguments.engine, workers, transfer)
                model.to(trainer(config))  # type: ignore[arg-type]
                placements[name] = measure(Path(folder), model, config, arguments)
    for name, found in placements.items():
        sync, rate = found["sync_seconds"], found["tokens_per_second"]
        print(f"{name}: sync {sync[0]:.4f} s ({sync[1]:.4f}–{sync[2]:.4f}), ", end="")
        print(f"{rate[0]:,.0f} tokens/s ({rate[1]:,.0f}–{rate[2]:,.0f})")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=1) + "\n")


def random_model(arguments: argparse.Namespace) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=arguments.vocab,
        hidden_size=arguments.hidden,
        intermediate_size=3 * arguments.hidden,
        num_hidden_layers=arguments.layers,
        num_attention_heads=max(1, arguments.hidden // 64),
        num_key_value_heads=1,
        head_dim=64,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return Qwen3ForCausalLM(config).to(getattr(torch, arguments.dtype))


def rollouts(engine: str, workers: int, transfer: str) -> RolloutsConfig:
    """A GPU for each worker where there are some; with ipc, a share of this process's."""
    values: dict[str, Any] = {"engine": engine, "workers": workers, "weight_transfer": transfer}
    if workers and torch.cuda.is_available():
        values["gpus_per_worker"] = 0.4 if transfer == "ipc" else 1
    if transfer == "ipc":
        values["gpu_memory_utilization"] = 0.4
    return RolloutsConfig.model_validate(values)


def trainer(config: RolloutsConfig) -> torch.device:
    """Where weights come from: the GPU that Ray gives to a worker last, or first where they share it."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    alone = config.workers and config.weight_transfer != "ipc"
    torch.cuda.set_device(torch.cuda.device_count() - 1 if alone else 0)
    return torch.device("cuda", torch.cuda.current_device())


def measure(
    folder: Path, model: Qwen3ForCausalLM, config: RolloutsConfig, arguments: argparse.Namespace
) -> dict[str, list[float]]:
    """Of one placement; the first repeat of each warms up."""
    engine = make_engine(
        folder,
        config,
        eos_token_id=NO_TOKEN,
        dtype=arguments.dtype,
        max_length=2 * arguments.tokens,
    )
    prompt = tuple(1 + index % (arguments.vocab - 1) for index in range(arguments.tokens // 2))
    requests = [Request(str(index), prompt, index) for index in range(arguments.prompts)]
    sampling = Sampling(max_tokens=arguments.tokens, n=arguments.group)
    count = arguments.prompts * arguments.group * arguments.tokens
    try:
        syncs = seconds(lambda: engine.load_weights(model.named_parameters()), arguments.repeats)
        batches = seconds(lambda: engine.generate(requests, sampling), arguments.repeats)
    finally:
        engine.close()
    return {"sync_seconds": spread(syncs), "tokens_per_second": spread([count / each for each in batches])}


def seconds(work: Callable[[], object], repeats: int) -> list[float]:
    found = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return found[1:]


def spread(values: list[float]) -> list[float]:
    return [statistics.median(values), min(values), max(values)]


if __name__ == "__main__":
    main()
