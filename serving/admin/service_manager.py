"""Tells systemd how the node is, if it started this process with ``Type=notify`` (sd_notify(3)).

What is said are lines ``NAME=value`` in one datagram to the Unix socket that the environment names: that the node is
ready, that it stops, in one line how it is, and, where a watchdog waits for it, that its event loop still turns.
Without systemd nothing is said.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, MutableMapping

import structlog
import trio

log = structlog.get_logger(__name__)

SOCKET_VARIABLE = "NOTIFY_SOCKET"
"""Environment variable with the address of the socket; one that begins with @ is in the abstract namespace."""
WATCHDOG_VARIABLES = ("WATCHDOG_USEC", "WATCHDOG_PID")
"""After how many microseconds of silence which process is ended."""
STATUS_INTERVAL_S = 10.0
"""How often it is said how the node is."""
MIN_INTERVAL_S = 0.1
"""No watchdog is fed more often."""


class ServiceManager:
    """systemd, as one process sees it.

    ``environment`` is that of the process, whose number is ``pid``. The variables are taken out of it: what this
    process starts is not the service.
    """

    def __init__(self, environment: MutableMapping[str, str], pid: int) -> None:
        address = environment.pop(SOCKET_VARIABLE, "")
        timeout, watched = (environment.pop(name, "") for name in WATCHDOG_VARIABLES)
        self._address = "\0" + address[1:] if address.startswith("@") else address
        is_watched = timeout.isascii() and timeout.isdigit() and int(timeout) > 0 and watched in ("", str(pid))
        self.watchdog_s = int(timeout) / 1e6 if is_watched else None
        """After how many seconds of silence the process is ended, if ever."""

    @property
    def interval_s(self) -> float:
        """How often something is said: a third of what the watchdog waits, or as often as the status changes."""
        if self.watchdog_s is None:
            return STATUS_INTERVAL_S
        return max(MIN_INTERVAL_S, min(self.watchdog_s / 3, STATUS_INTERVAL_S))

    def notify(self, *lines: str) -> None:
        """Say something, if there is somebody to say it to."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.connect(self._address)
                sender.send("\n".join(lines).encode())
        except OSError as error:
            log.warning("cannot tell the service manager how the node is", reason=str(error))
            self._address = "" if self.watchdog_s is None else self._address

    async def run(self, describe: Callable[[], str]) -> None:
        """Say every now and then that the loop turns, and in one line how the node is, until cancelled."""
        while self._address:
            status = describe().replace("\n", " ")
            self.notify(*(() if self.watchdog_s is None else ("WATCHDOG=1",)), f"STATUS={status}")
            await trio.sleep(self.interval_s)
