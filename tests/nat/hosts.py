"""Hosts of libp2p in the lab, in threads of this process: what takes no whole node is tested with these."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import trio

from p2p.host.network import Libp2pNetwork
from tests.nat.lab import Host
from tests.support.waiting import PATIENCE

T = TypeVar("T")


class PlacedNetwork:
    """A network that runs on a machine of the lab, in a thread of its own, and is used from the thread of the test."""

    def __init__(self, host: Host, network: Libp2pNetwork) -> None:
        self.host = host
        self.network = network
        self._started = threading.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope = trio.CancelScope()
        self._thread = threading.Thread(target=self._run, name=host.namespace.name, daemon=True)
        self._thread.start()
        assert self._started.wait(PATIENCE), "a host did not start"

    def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do ``work`` there and return what it returns."""
        return trio.from_thread.run(work, trio_token=self._token)

    def close(self) -> None:
        """Take it off the network, in order. Safe to call twice."""
        if self._thread.is_alive():
            trio.from_thread.run_sync(self._scope.cancel, trio_token=self._token)
            self._thread.join(PATIENCE)

    def _run(self) -> None:
        with self.host.namespace:
            trio.run(self._serve)

    async def _serve(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with self._scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.network.run)
                self._started.set()


@contextmanager
def placed(*networks: tuple[Host, Libp2pNetwork]) -> Iterator[list[PlacedNetwork]]:
    """The networks run inside."""
    running: list[PlacedNetwork] = []
    try:
        for host, network in networks:
            running.append(PlacedNetwork(host, network))
        yield running
    finally:
        for one in running:
            one.close()
