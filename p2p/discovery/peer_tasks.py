"""Tasks about one peer each. What such a task raises is logged and reported against its peer, and ends nothing else."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVarTuple

import trio

from chain.crypto import format_address
from p2p.network import Misbehaviour, Network, is_network_error

logger = logging.getLogger(__name__)

Ts = TypeVarTuple("Ts")


async def run_contained(
    network: Network, peer: bytes, task: Callable[[*Ts], Awaitable[object]], *arguments: *Ts
) -> None:
    """Run a task about ``peer`` and let no exception out."""
    try:
        await task(*arguments)
    except Exception as error:
        if is_network_error(error):
            logger.debug("%s: %s", format_address(peer), error)
        else:
            logger.error("a task about %s failed", format_address(peer), exc_info=error)
            network.report_misbehaviour(peer, Misbehaviour.GARBAGE)


class PeerTasks:
    """The nursery in which a service runs such tasks."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._nursery: trio.Nursery | None = None

    @property
    def is_open(self) -> bool:
        """Whether tasks can be started."""
        return self._nursery is not None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[trio.Nursery]:
        """Accept tasks until the nursery ends."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                yield nursery
        finally:
            self._nursery = None

    def start(self, peer: bytes, task: Callable[[*Ts], Awaitable[object]], *arguments: *Ts) -> None:
        """Start a task about ``peer``; nothing happens when the service has ended."""
        if self._nursery is not None:
            self._nursery.start_soon(run_contained, self._network, peer, task, *arguments)

    def cancel(self) -> None:
        """End every task, and with them the service."""
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
