"""What was started is found again and ended; what was not is left alone."""

import os
import signal
import sys
import time
from pathlib import Path

import psutil

from deployments import processes

# Leaves a child in a session of its own, and does not end when asked to.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
time.sleep(600)
"""


def wait_for(mark: str, count: int) -> list[psutil.Process]:
    deadline = time.monotonic() + 120
    while len(found := processes.members(mark)) < count:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def test_ending_takes_descendants_and_the_stubborn_and_nobody_else(tmp_path: Path) -> None:
    mine, other = f"{tmp_path}:mine", f"{tmp_path}:other"
    log = tmp_path / "log"
    processes.spawn(mine, [sys.executable, "-c", STUBBORN], os.environ, log, tmp_path)
    bystander = processes.spawn(
        other, [sys.executable, "-c", "import time; time.sleep(600)"], os.environ, log, tmp_path
    )
    try:
        found = wait_for(mine, 2)
        assert processes.end(mine, 1.0)
        assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in found)
        assert processes.members(mine) == []
        assert [process.pid for process in processes.members(other)] == [bystander.pid]
    finally:
        assert processes.end(other, 5.0)


def test_children_of_a_killed_service_are_still_found(tmp_path: Path) -> None:
    mark = f"{tmp_path}:crashed"
    root = processes.spawn(mark, [sys.executable, "-c", STUBBORN], os.environ, tmp_path / "log", tmp_path)
    wait_for(mark, 2)
    root.send_signal(signal.SIGKILL)
    root.wait()
    (orphan,) = processes.members(mark)
    assert processes.end(mark, 5.0)
    assert not psutil.pid_exists(orphan.pid)


def test_ending_what_never_ran_is_no_error(tmp_path: Path) -> None:
    assert not processes.end(f"{tmp_path}:nothing", 1.0)
