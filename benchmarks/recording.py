"""What the benchmarks share: a median with its spread, and where results are kept."""

import json
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values), "runs": len(values)}


def machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} threads"


def record(name: str, results: dict[str, Any]) -> None:
    """Print ``results`` and keep them as ``benchmarks/results/<name>.json``."""
    whole = {"machine": machine(), "torch": torch.__version__, **results}
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(whole, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(text)


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
