"""Follow a running stage through the files it writes: metrics line by line, its log, how far it is."""

import json
from pathlib import Path
from typing import Any


class Tail:
    """New whole lines of a text file that grows.

    A stage that resumes drops the lines after its checkpoint and writes them again; those are new lines too, unless
    the file was already longer again at the next look.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._seen = path, 0

    def lines(self) -> list[str]:
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        whole = content[: content.rfind(b"\n") + 1].decode(errors="replace").splitlines()
        new = whole[min(self._seen, len(whole)) :]
        self._seen = len(whole)
        return new


class StageFollower:
    """What happened in a stage directory since the last look."""

    def __init__(self, directory: Path) -> None:
        self._metrics, self._log = Tail(directory / "metrics.jsonl"), Tail(directory / "stage.log")

    def metrics(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._metrics.lines()]

    def log(self) -> list[str]:
        return self._log.lines()


def describe(line: dict[str, Any]) -> str:
    """One step's metrics in a few words."""
    shown = [f"step {line['step']}/{line['steps']}"]
    for name in ("reward", "kl", "loss", "entropy", "grad_norm", "completion_length", "truncated"):
        if name in line:
            shown.append(f"{name} {line[name]:.3g}")
    shown.append(f"{line['tokens_per_second']:.0f} tokens/s")
    return ", ".join(shown)
