"""A head that is gone is noticed, and a head that comes back in time is not given up."""

import socket
import time

import pytest

from s2d_core.config.schema import LaunchConfig
from s2d_core.errors import ResourceError
from s2d_core.launch.head import Head


def hurried(launch: LaunchConfig) -> Head:
    return Head(launch, every=0.1, lost=0.3)


def listening(port: int = 0) -> socket.socket:
    listener = socket.create_server(("127.0.0.1", port))
    listener.listen(64)
    return listener


def look(head: Head, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        head.check()
        time.sleep(0.02)


def test_a_head_that_is_gone_is_named_with_what_to_do() -> None:
    listener = listening()
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    head = hurried(LaunchConfig(address=address))
    look(head, 0.3)
    listener.close()
    with pytest.raises(ResourceError, match=f"launch.address = '{address}': the Ray cluster is gone.*start it again"):
        look(head, 5)
    assert head.lost
    with pytest.raises(ResourceError):  # and at once from then on
        head.check()


def test_a_head_that_comes_back_in_time_is_not_given_up() -> None:
    listener = listening()
    port = listener.getsockname()[1]
    head = hurried(LaunchConfig(address=f"127.0.0.1:{port}"))
    head.check()
    listener.close()
    look(head, 0.15)
    with listening(port):
        look(head, 0.6)
    assert not head.lost


@pytest.mark.parametrize("launch", [{}, {"address": "auto"}, {"mode": "job", "address": "http://127.0.0.1:1"}])
def test_what_has_no_head_to_knock_at_is_never_given_up(launch: dict[str, str]) -> None:
    head = hurried(LaunchConfig.model_validate(launch))
    look(head, 0.5)
    assert not head.lost
