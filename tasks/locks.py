"""One lock for threads, processes and hosts alike: two runs that need the same thing make it once."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_S = 0.2


@contextmanager
def exclusive(path: Path, check: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock file ``path``. ``check`` is called on every poll while another holds it, and may raise.

    The kernel releases it however its holder dies. Across hosts it takes a file system with ``flock`` (NFSv4).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                check()
                time.sleep(POLL_S)
        yield
