"""One worker process of a verifier, with pipes of its own: killed at the time limit, replaced when it is gone.

A plain child program rather than a ``multiprocessing`` pool: it can be started from any thread and inside a Ray
worker, it never imports the parent's main module, and killing it can leave no lock behind that others wait for.
"""

import json
import os
import select
import subprocess
import sys
import time

from s2d_core.errors import ResourceError
from s2d_core.rewards.grading import Grade

START_TIMEOUT_S = 120.0  # imports, on a machine that may be busy
START_ATTEMPTS = 3
ALARM_GRACE_S = 5.0  # beyond the time limit, the worker ends itself
ANSWERS = 20_000  # then the process is replaced: the parser's caches grow with every new text


class Worker:
    """Grades one pair at a time. Its process starts with the first pair."""

    def __init__(self, timeout_s: float, memory_mb: int) -> None:
        self._timeout_s, self._memory_mb = timeout_s, memory_mb
        self._process: subprocess.Popen[bytes] | None = None
        self._answers = 0

    def grade(self, answer: str, gold: str) -> Grade:
        """``timeout``: over the time or memory limit, or the process died twice while it read this answer.

        Raises ResourceError when no process can be started.
        """
        request = json.dumps([answer, gold, self._timeout_s + ALARM_GRACE_S]).encode() + b"\n"
        for _ in range(2):
            process = self._started()
            try:
                assert process.stdin is not None
                process.stdin.write(request)
                process.stdin.flush()
                reply = _read_line(process, self._timeout_s)
            except BrokenPipeError:
                reply = b""
            if reply is None:
                self.close()
                return "timeout"
            for grade in ("correct", "wrong", "timeout"):
                if reply == grade.encode():
                    return grade
            self.close()
        return "timeout"

    def close(self) -> None:
        """Kill the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _started(self) -> "subprocess.Popen[bytes]":
        self._answers += 1
        if self._answers > ANSWERS or (self._process is not None and self._process.poll() is not None):
            self.close()
        for _ in range(START_ATTEMPTS):
            if self._process is not None:
                return self._process
            self._answers = 1
            self._start()
        raise ResourceError(
            f"verifier: a worker process ended or hung {START_ATTEMPTS} times while it started; check the machine's "
            "free memory and process limits, or lower verifier.workers"
        )

    def _start(self) -> None:
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "s2d_core.rewards.grading", str(self._memory_mb)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        except OSError as error:
            raise ResourceError(f"verifier: no worker process can be started ({error})") from error
        if _read_line(self._process, START_TIMEOUT_S) != b"ready":
            self.close()


def _read_line(process: "subprocess.Popen[bytes]", timeout_s: float) -> bytes | None:
    """The next line, without its end; what there is of it if the process ends; None after ``timeout_s``."""
    assert process.stdout is not None
    file = process.stdout.fileno()
    poll = select.poll()
    poll.register(file, select.POLLIN)
    deadline = time.monotonic() + timeout_s
    line = b""
    while not line.endswith(b"\n"):
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return None
        if not (part := os.read(file, 4096)):
            break
        line += part
    return line.rstrip(b"\n")
