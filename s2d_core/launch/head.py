"""Is the head of a Ray cluster there? Asked by knocking at its address; knows nothing else of Ray."""

import socket
import time

from s2d_core.config.schema import LaunchConfig
from s2d_core.errors import ResourceError

LOOK_EVERY_SECONDS = 5.0
LOST_SECONDS = 15.0  # a head that restarts is back by then, and Ray's own minute is not over


def knock(address: str, seconds: float) -> None:
    """Raises OSError where nothing listens at HOST:PORT; other addresses (``local``, ``auto``) are taken to answer."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), seconds).close()


class Head:
    """The head of an attached cluster, looked at while stages run on it. Ray ends the process of whoever has lost the
    head for a minute, without a word; this says so before."""

    def __init__(self, launch: LaunchConfig, every: float = LOOK_EVERY_SECONDS, lost: float = LOST_SECONDS) -> None:
        self._every, self._lost_after = every, lost  # seconds
        self._address = launch.address if launch.mode == "ray" else "local"
        self._lost_at: float | None = None
        self._looked_at = -every

    def check(self) -> None:
        """Looks now and then. Raises ResourceError once nothing has answered for ``lost`` seconds."""
        now = time.monotonic()
        if now - self._looked_at < self._every and not self.lost:
            return
        self._looked_at = now
        try:
            knock(self._address, self._every)
            self._lost_at = None
        except OSError as error:
            self._lost_at = self._lost_at or now
            if self.lost:
                raise ResourceError(
                    f"launch.address = {self._address!r}: the Ray cluster is gone ({error}); start it again and run "
                    "again, to go on from the last checkpoints"
                ) from error

    @property
    def lost(self) -> bool:
        return self._lost_at is not None and time.monotonic() - self._lost_at >= self._lost_after
