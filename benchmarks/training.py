"""A step on packed long sequences: tokens a second, share of the device's peak (MFU), peak memory beside the plan's.

    python benchmarks/training.py --model qwen3_1p7b --dtype bfloat16 --checkpointing --peak-tflops 989
    python benchmarks/training.py --model qwen3_0p6b ...                        # one GRPO step
    python benchmarks/training.py --model qwen3_1p7b --teacher qwen3_8b ...     # one of on-policy distillation

Random weights of the real geometry, ``--micro-batches`` of ``--tokens`` each, in ``--sequences`` sequences. MFU counts
the products that the step needs, attention's included and causal, and neither recomputation nor the optimiser. Memory
is the allocator's peak, which a processor does not have.
"""

import argparse
import time
from typing import Any

import torch
from recording import record, spread
from transformers import AutoModelForCausalLM, Qwen3Config

from s2d_core.config.stages import DivergenceConfig, OptimiserConfig, SamplingConfig, SparseStage
from s2d_core.resources import memory
from s2d_core.resources.geometry import Geometry, read_geometry
from s2d_core.training import parallel
from s2d_core.training.objectives import Divergence, Objective, PolicyGradient
from s2d_core.training.optimiser import make_optimiser, update
from s2d_core.training.packing import Example, MicroBatch, pack
from s2d_core.training.policy import Policy

SHARED: dict[str, Any] = {"vocab_size": 151_936, "num_key_value_heads": 8, "head_dim": 128}
MODELS: dict[str, dict[str, Any]] = {
    "tiny": {"vocab_size": 512, "num_key_value_heads": 2, "head_dim": 16, "hidden_size": 64, "intermediate_size": 192}
    | {"num_hidden_layers": 2, "num_attention_heads": 4, "tie_word_embeddings": True},
    "qwen3_0p6b": SHARED
    | {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16}
    | {"tie_word_embeddings": True},
    "qwen3_1p7b": SHARED
    | {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16}
    | {"tie_word_embeddings": True},
    "qwen3_8b": SHARED
    | {"hidden_size": 4096, "intermediate_size": 12_288, "num_hidden_layers": 36, "num_attention_heads": 32}
    | {"tie_word_embeddings": False},
}
PROMPT = 64
FORWARD, BACKWARD = 2, 4  # operations a parameter and token


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="tiny")
    parser.add_argument("--teacher", choices=MODELS, help="distil from it; none: GRPO")
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--sequences", type=int, default=1)
    parser.add_argument("--micro-batches", type=int, default=2)
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--peak-tflops", type=float, default=0.0, help="of the device in this dtype; 0: no MFU")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    parallel.join_alone()
    try:
        measure(arguments)
    finally:
        parallel.leave()


def measure(arguments: argparse.Namespace) -> None:
    policy = trained(arguments)
    objective = make_objective(arguments)
    optimiser = make_optimiser(policy.parameters(), OptimiserConfig(lr=1e-6))
    micros = [packed(arguments).to(parallel.device()) for _ in range(arguments.micro_batches)]
    seconds = [step(policy, objective, optimiser, micros) for _ in range(arguments.repeats + 1)][1:]
    tokens, work = arguments.tokens * arguments.micro_batches, operations(arguments) * arguments.micro_batches
    results = {
        "arguments": vars(arguments),
        "seconds": spread(seconds),
        "tokens_per_second": spread([tokens / each for each in seconds]),
        "predicted_memory_gib": sum(memory.peak(job(arguments))[1].values()) / (1 << 30),
    }
    if arguments.peak_tflops:
        results["mfu"] = spread([work / each / arguments.peak_tflops / 1e12 for each in seconds])
    if torch.cuda.is_available():
        results["measured_memory_gib"] = torch.cuda.max_memory_allocated() / (1 << 30)
    record(f"training_{arguments.model}_{arguments.teacher or 'grpo'}", results)


def step(policy: Policy, objective: Objective, optimiser: torch.optim.AdamW, micros: list[MicroBatch]) -> float:
    """Seconds of one optimiser update over all micro-batches."""
    began = time.perf_counter()
    for micro in micros:
        objective(policy, micro, None).loss.backward()
    update(optimiser, OptimiserConfig(lr=1e-6), 1e-6)  # its norm is read by the host, which waits for the device
    return time.perf_counter() - began


def trained(arguments: argparse.Namespace) -> Policy:
    model = load(arguments.model, "float32")
    if arguments.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return parallel.shard(Policy(model, getattr(torch, arguments.dtype))).train()


def make_objective(arguments: argparse.Namespace) -> Objective:
    if arguments.teacher:
        teacher = Policy(load(arguments.teacher, arguments.dtype).requires_grad_(False))
        return Divergence(DivergenceConfig(kind="reverse_kl"), arguments.chunk, [(teacher, 1.0)])
    stage = SparseStage(
        steps=1,
        optimiser=OptimiserConfig(lr=1e-6),
        prompts_per_step=1,
        group_size=2,
        sampling=SamplingConfig(max_tokens=arguments.tokens),
    )
    return PolicyGradient(stage, arguments.chunk, None)


def load(name: str, dtype: str):  # type: ignore[no-untyped-def]  # transformers' classes have no common stub
    with torch.device(parallel.device()):
        return AutoModelForCausalLM.from_config(Qwen3Config(**MODELS[name]), dtype=getattr(torch, dtype))


def packed(arguments: argparse.Namespace) -> MicroBatch:
    length = arguments.tokens // arguments.sequences - PROMPT
    example = Example([5] * PROMPT, [6] * length, [-1.0] * length, 1.0)
    weights = torch.full((length,), 1 / (length * arguments.sequences * arguments.micro_batches))
    return pack([example] * arguments.sequences, [weights] * arguments.sequences)


def geometry(name: str) -> Geometry:
    return read_geometry(Qwen3Config(**MODELS[name]).to_dict(), name)


def operations(arguments: argparse.Namespace) -> float:
    """Floating-point operations of a micro-batch."""
    found = (FORWARD + BACKWARD) * products(geometry(arguments.model), arguments)
    return found + (FORWARD * products(geometry(arguments.teacher), arguments) if arguments.teacher else 0.0)


def products(model: Geometry, arguments: argparse.Namespace) -> float:
    """Multiplications of a forward pass: layers and causal attention at every token, the head at predictions."""
    length = arguments.tokens // arguments.sequences
    layers = model.layers * model.layer_parameters * arguments.tokens
    attention = model.layers * model.queries * arguments.tokens * length  # half of the two products' full squares
    return layers + attention + model.embedding * (arguments.tokens - PROMPT * arguments.sequences)


def job(arguments: argparse.Namespace) -> memory.Training:
    """The same step as the plan sees it."""
    teacher = [geometry(arguments.teacher)] if arguments.teacher else []
    predictions = arguments.tokens - PROMPT * arguments.sequences
    return memory.Training(
        model=geometry(arguments.model),
        precision=memory.Precision.of(arguments.dtype),
        micro=memory.MicroBatch(arguments.tokens, predictions, arguments.tokens),
        losses=["reverse_kl" if teacher else "policy_gradient"],
        chunk=arguments.chunk,
        frozen=teacher,
        target=teacher,
        checkpointing=arguments.checkpointing,
        accumulates=arguments.micro_batches > 1,
    )


if __name__ == "__main__":
    main()
