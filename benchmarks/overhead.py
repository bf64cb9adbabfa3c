"""What a stage costs beside its own work: ``python benchmarks/overhead.py [--repeats 3]``.

Runs the smoke recipe's arms with one step a stage, once with few and once with many stages, each as a user would. The
difference of the two, without what the stages say they worked, over the difference in stages is the overhead of one:
Prefect, Ray, process starts, imports, MLflow. CPU seconds are those of all processes of the run.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
ROWS = ("pretrain_teacher", "pretrain_student", "teacher_rl", "warmup", "opd", "student_rl")
SAMPLE_S = 0.1
FEW, MANY = ["--seeds", "0"], ["--seeds", "0", "1", "2"]


class Processes:
    """CPU seconds of a process and all that came from it, ended ones included."""

    def __init__(self, pid: int) -> None:
        self.seconds: dict[tuple[int, float], float] = {}
        self._root, self._done = psutil.Process(pid), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def total(self) -> float:
        self._done.set()
        self._thread.join()
        return sum(self.seconds.values())

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_S):
            try:
                found = [self._root, *self._root.children(recursive=True)]
            except psutil.Error:
                return
            for process in found:
                try:
                    times = process.cpu_times()
                except psutil.Error:
                    continue
                self.seconds[process.pid, process.create_time()] = times.user + times.system


def run(folder: Path, extra: list[str]) -> dict[str, float]:
    """One run into a store of its own: wall and CPU seconds, stages, seconds that stages worked."""
    store = folder / "store"
    steps = [f"stages.{row}.steps=1" for row in ROWS]
    words = [sys.executable, "-m", "flows", "--recipe", "smoke", "--arms", "full", "direct_grpo", *extra]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(folder / "prefect")}
    began = time.perf_counter()
    with (folder / "out.txt").open("w") as out:
        process = subprocess.Popen(
            [*words, "--set", f"store={store}", *steps], cwd=ROOT, env=environment, stdout=out, stderr=out
        )
        processes = Processes(process.pid)
        if process.wait() != 0:
            raise SystemExit((folder / "out.txt").read_text())
    wall = time.perf_counter() - began
    results = [json.loads(path.read_text())["result"] for path in store.glob("stages/*/manifest.json")]
    worked = sum(result["seconds"] for result in results)
    return {"wall": wall, "cpu": processes.total(), "stages": len(results), "worked": worked}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[str, list[float]] = {"wall": [], "cpu": []}
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as few, tempfile.TemporaryDirectory() as many:
            less, more = run(Path(few), FEW), run(Path(many), MANY)
        print(f"few {less}\nmany {more}", flush=True)
        count = more["stages"] - less["stages"]
        worked = more["worked"] - less["worked"]
        found["wall"].append((more["wall"] - less["wall"]) / count)
        found["cpu"].append((more["cpu"] - less["cpu"] - worked) / count)
    for name, values in found.items():
        print(f"{name}: median {statistics.median(values):.2f} s a stage of {[round(v, 2) for v in values]}")


if __name__ == "__main__":
    main()
