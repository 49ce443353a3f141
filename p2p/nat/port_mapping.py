"""Port mapping by UPnP: asking the gateway of a home network to forward this node's ports.

Only when the owner allows it: the request goes to the whole local network, and the gateway may log it. Whether the
forwarding works is found out by ``p2p.nat.dial_back``. ``miniupnpc``, the reference client, speaks the protocol; its
calls block for seconds and run in a thread.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import trio

from p2p.runtime import Runtime

logger = logging.getLogger(__name__)

LEASE_S = 3600
"""Time for which the gateway forwards a port unless asked again, so that it forgets a node that was killed."""
RENEWAL_S = 1200.0
"""Time between requests. A gateway that was restarted has forgotten everything."""
DISCOVERY_TIME_MS = 2000
"""Time in which gateways may answer."""
PURPOSE = "wwwserve"
"""What the gateway lists the mapping as."""


class Gateway(Protocol):
    """What is used of ``miniupnpc.UPnP``. Every method blocks, and raises Exception when it fails."""

    lanaddr: str

    def discover(self) -> int: ...

    def selectigd(self) -> str: ...

    def addportmapping(
        self, outside: int, protocol: str, host: str, inside: int, purpose: str, remote: str, lease: int, /
    ) -> bool: ...

    def deleteportmapping(self, outside: int, protocol: str, remote: str, /) -> bool: ...


def find_gateway() -> Gateway:
    """The client of the reference library."""
    client = importlib.import_module("miniupnpc").UPnP()
    client.discoverdelay = DISCOVERY_TIME_MS
    gateway: Gateway = client
    return gateway


class PortForwarding:
    """Keeps TCP ports forwarded to the same ports of this machine, as long as it runs."""

    def __init__(self, runtime: Runtime, find: Callable[[], Gateway] = find_gateway) -> None:
        self._runtime = runtime
        self._find = find
        self.forwarded: tuple[int, ...] = ()
        """The ports that the gateway has agreed to."""

    async def run(self, ports: Sequence[int], *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; started when the gateway has answered for the first time, or there is none."""
        started = False
        try:
            while True:
                self.forwarded = await self._runtime.run_sync(self._forward, tuple(ports))
                if not started:
                    task_status.started()
                    started = True
                await trio.sleep(RENEWAL_S)
        finally:
            with trio.CancelScope(shield=True):
                if self.forwarded:
                    await self._runtime.run_sync(self._withdraw, self.forwarded)
                self.forwarded = ()

    def _forward(self, ports: tuple[int, ...]) -> tuple[int, ...]:
        """Blocks. Returns the ports that the gateway forwards now."""
        forwarded = []
        try:
            gateway = self._find()
            gateway.discover()
            gateway.selectigd()
            for port in ports:
                if gateway.addportmapping(port, "TCP", gateway.lanaddr, port, PURPOSE, "", LEASE_S):
                    forwarded.append(port)
        except Exception as error:  # the library has no exception of its own
            logger.info("the gateway forwards no port: %s", error)
        return tuple(forwarded)

    def _withdraw(self, ports: tuple[int, ...]) -> None:
        try:
            gateway = self._find()
            gateway.discover()
            gateway.selectigd()
            for port in ports:
                gateway.deleteportmapping(port, "TCP", "")
        except Exception as error:
            logger.info("the gateway was not told to stop forwarding: %s", error)
