"""Processes that outlive the command that starts them, found again by a mark in their environment.

Children inherit the mark, a stranger that was given a dead process's number does not have it, and there is no record
that a crash could leave wrong.
"""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

MARK = "S2D_SERVICE"


def spawn(
    mark: str, command: Sequence[str], environment: Mapping[str, str], log: Path, folder: Path
) -> subprocess.Popen[bytes]:
    """Start ``command`` in a session of its own, its output appended to ``log``."""
    folder.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            env={**environment, MARK: mark},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def members(mark: str) -> list[psutil.Process]:
    """Every living process with the mark, and their descendants: some overwrite their environment with a title."""
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found |= {process, *process.children(recursive=True)}
        except psutil.Error:  # gone, or somebody else's
            continue
    return [process for process in found if process.pid != os.getpid()]


def end(mark: str, patience: float) -> bool:
    """Ask every member to end, and kill what is left after ``patience`` seconds; whether there was any."""
    if not (found := members(mark)):
        return False
    _signal(found, signal.SIGTERM)
    _, stubborn = psutil.wait_procs(found, patience)
    left = {*stubborn, *members(mark)}
    _signal(left, signal.SIGKILL)
    psutil.wait_procs(left, patience)
    return True


def _signal(processes: Sequence[psutil.Process] | set[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)  # looks at the start time first: never a later process of the same number
        except psutil.Error:
            continue
