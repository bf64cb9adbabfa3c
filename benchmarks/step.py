"""Median time of each part of a GRPO, warm-up and OPD step, and each engine's tokens a second, in the small world.

    python benchmarks/step.py [--steps 20] [--engines torch vllm] [--output results.json]

One process, one thread. Models have random weights: a step's time depends on their shapes and on how long completions
are, so completions run to the limit, which makes these figures an upper bound on the small world's own.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from s2d_core.config.compose import load_config
from s2d_core.config.schema import Config
from s2d_core.plan import plan
from s2d_core.rollouts import make_engine
from s2d_core.rollouts.types import Request, Sampling
from s2d_core.run_stage import run_stage
from s2d_core.spec import StageSpec
from s2d_core.store import Store
from s2d_core.worlds.tokenizer import make_tokenizer

PARTS = ("sample", "score", "train", "sync")
STAGES = ("teacher_rl", "student_rl", "warmup", "opd")
SEQUENCES, GROUP = 256, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--engines", nargs="+", default=["torch"], choices=["torch", "vllm"])
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as store:
        config = load_config("small_world", overrides(store, arguments.steps))
        planned = plan(config, None, [0])
        for spec in planned.specs.values():
            if spec.kind != "evaluate":
                run_stage(spec)
        results = {
            "machine": f"{platform.processor() or platform.machine()}, one thread",
            "steps": {name: step_times(planned.specs.values(), name, config) for name in STAGES},
            "sampling": {
                f"{engine} {role}": sampling_rate(planned.specs.values(), config, engine, role)
                for engine in arguments.engines
                for role in ("student", "teacher")
            },
        }
    show(results)
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=1))


def overrides(store: str, steps: int) -> list[str]:
    """A few steps of every stage on barely pretrained models; every group counts, whatever its rewards."""
    short = [f"stages.{name}.steps={steps}" for name in STAGES]
    short += [f"stages.pretrain_{role}.steps=50" for role in ("teacher", "student")]
    keep = [f"stages.{name}.policy_gradient.drop_zero_variance=false" for name in ("teacher_rl", "student_rl")]
    return [f"store={store}", "training.checkpoint_every=1000", *short, *keep]


def step_times(specs, name: str, config: Config) -> dict[str, list[float]]:
    """[median, fastest, slowest] seconds of each part of a step; the first two steps warm up."""
    spec: StageSpec = next(spec for spec in specs if spec.name == name)
    lines = [json.loads(line) for line in (Store(config.store).dir(spec) / "metrics.jsonl").read_text().splitlines()][
        2:
    ]
    found = {}
    for part in ("", *PARTS):
        key = f"seconds_{part}" if part else "seconds"
        if values := [line[key] for line in lines if key in line]:
            found[part or "step"] = [statistics.median(values), min(values), max(values)]
    return found


def sampling_rate(specs, config: Config, engine_name: str, role: str) -> list[float]:
    """[median, slowest, fastest] tokens a second over 5 batches of 256 sequences."""
    spec = next(spec for spec in specs if spec.name == f"pretrain_{role}")
    tokenizer = make_tokenizer()
    engine = make_engine(
        Store(config.store).dir(spec) / "model",
        config.rollouts.model_copy(update={"engine": engine_name}),
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
        max_length=64,
    )
    prompt = tuple(tokenizer("07+8*3-6=").input_ids)
    requests = [Request(str(i), prompt, 1_000_003 * i) for i in range(SEQUENCES // GROUP)]
    rates = []
    for _ in range(6):
        began = time.perf_counter()
        groups = engine.generate(requests, Sampling(max_tokens=17, n=GROUP))
        rates.append(sum(len(r.completion_ids) for group in groups for r in group) / (time.perf_counter() - began))
    engine.close()
    return [statistics.median(rates[1:]), min(rates[1:]), max(rates[1:])]


def show(results: dict) -> None:
    print(f"{'seconds':<12}" + "".join(f"{part:>22}" for part in ("step", *PARTS)) + "   median (fastest–slowest)")
    for name, parts in results["steps"].items():
        cells = {part: f"{median:.3f} ({low:.3f}–{high:.3f})" for part, (median, low, high) in parts.items()}
        print(f"{name:<12}" + "".join(f"{cells.get(part, ''):>22}" for part in ("step", *PARTS)))
    for name, (median, low, high) in results["sampling"].items():
        print(f"{name:<16} {median:10,.0f} tokens/s ({low:,.0f}–{high:,.0f})")


if __name__ == "__main__":
    main()
