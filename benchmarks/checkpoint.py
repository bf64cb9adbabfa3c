"""How long a checkpoint holds the loop up: ``python benchmarks/checkpoint.py [--parameters 20] [--repeats 5]``.

``written_in_the_loop``: until the files are whole. ``beside_the_loop``: until the state is copied and the loop may go
on. Wall seconds, of a float32 model of so many million parameters with AdamW's state.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from recording import record, spread
from transformers import AutoModelForCausalLM, Qwen3Config

from s2d_core.config.stages import OptimiserConfig
from s2d_core.training.checkpoint import Saver
from s2d_core.training.optimiser import make_optimiser, update
from s2d_core.training.policy import Policy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", type=int, default=20, help="in millions")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    vocab = arguments.parameters * 1_000_000 // 256
    config = Qwen3Config(hidden_size=256, num_hidden_layers=1, num_attention_heads=2, head_dim=64, vocab_size=vocab)
    policy, settings = Policy(AutoModelForCausalLM.from_config(config)), OptimiserConfig(lr=1e-3)
    optimiser = make_optimiser(policy.parameters(), settings)
    for parameter in policy.parameters():
        parameter.grad = torch.ones_like(parameter)
    update(optimiser, settings, lr=1e-3)
    seconds: dict[str, list[float]] = {"written_in_the_loop": [], "beside_the_loop": []}
    with tempfile.TemporaryDirectory() as folder:
        saver = Saver(Path(folder), keep=1)
        for step in range(arguments.repeats + 1):  # the first warms up
            began = time.perf_counter()
            saver.save(step, policy, optimiser)
            seconds["beside_the_loop"].append(time.perf_counter() - began)
            saver.wait()
            seconds["written_in_the_loop"].append(time.perf_counter() - began)
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    record("checkpoint", {"mib": size / 2**20, "seconds": {name: spread(each[1:]) for name, each in seconds.items()}})


if __name__ == "__main__":
    main()
