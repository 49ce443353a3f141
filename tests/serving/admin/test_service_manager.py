"""What systemd hears of a node: sd_notify(3) over a Unix socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from serving.admin.service_manager import ServiceManager

PID = 17


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


def read_all(listener: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(listener.recv(4096).decode())
        except BlockingIOError:
            return found


def make(listener: socket.socket, **more: str) -> ServiceManager:
    return ServiceManager({"NOTIFY_SOCKET": listener.getsockname(), **more}, PID)


def test_what_is_said_arrives_and_children_inherit_nothing(listener: socket.socket) -> None:
    environment = {"NOTIFY_SOCKET": listener.getsockname(), "WATCHDOG_USEC": "30000000", "PATH": "/bin"}
    manager = ServiceManager(environment, PID)
    manager.notify("READY=1", "STATUS=serving")
    assert read_all(listener) == ["READY=1\nSTATUS=serving"] and environment == {"PATH": "/bin"}
    assert manager.watchdog_s == 30.0 and manager.interval_s == 10.0


def test_an_abstract_socket() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0wwwserve-test-notify")
        ServiceManager({"NOTIFY_SOCKET": "@wwwserve-test-notify"}, PID).notify("STOPPING=1")
        assert listening.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "17"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "18"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
    ],
)
def test_whose_watchdog_it_is(variables: dict[str, str], expected: float | None, listener: socket.socket) -> None:
    assert make(listener, **variables).watchdog_s == expected


def test_the_watchdog_hears_of_a_loop_that_turns(listener: socket.socket) -> None:
    """Three times within its patience, and as soon as the loop stands still no more."""

    async def play() -> None:
        with trio.move_on_after(9.5):
            await make(listener, WATCHDOG_USEC="3000000").run(lambda: "height 1\n, all well")

    trio.run(play, clock=MockClock(autojump_threshold=0))
    assert read_all(listener) == ["WATCHDOG=1\nSTATUS=height 1 , all well"] * 10


def test_without_systemd_nothing_is_said_and_nothing_runs() -> None:
    manager = ServiceManager({}, PID)
    manager.notify("READY=1")
    trio.run(manager.run, lambda: "never asked")


def test_a_socket_that_is_gone_ends_no_node(tmp_path: Path) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}, PID)
    manager.notify("READY=1")
    trio.run(manager.run, lambda: "never asked")
