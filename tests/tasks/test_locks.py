"""The lock excludes threads and processes, and dies with its holder however that dies."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tasks.locks import exclusive

HOLD = """
import sys, time
from pathlib import Path
from tasks.locks import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_two_threads_never_hold_it_together(tmp_path: Path) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        with exclusive(tmp_path / "lock"):
            inside += 1
            most = max(most, inside)
            time.sleep(0.05)
            inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_killed_process_leaves_no_lock_behind(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"

        def give_up() -> None:
            raise BlockingIOError

        with pytest.raises(BlockingIOError), exclusive(lock, give_up):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with exclusive(lock, give_up):
        pass
