"""``python -m deployments.stack``, as a person runs it."""

import os
import subprocess
import sys
from pathlib import Path

from deployments.settings import PORTS, free_port

PATIENCE = 900.0  # seconds; a busy machine takes minutes for what takes seconds


def command(data: Path, action: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "deployments.stack", action, "--data", str(data), *options]
    return subprocess.run(words, env={**os.environ, **environment}, capture_output=True, text=True, timeout=PATIENCE)


def free_ports() -> list[str]:
    """Options that send every service to a port of its own."""
    return [word for name in PORTS for word in (f"--{name}-port", str(free_port()))]
