"""How the originator reaches executors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import trio

from p2p.addresses import get_addresses
from p2p.peers.announcement import Announcement
from p2p.streams.exchanges import Exchange, Streams
from serving.offload.protocol import OFFLOAD_PROTOCOL


@dataclass(frozen=True, slots=True)
class ExecutorDialer:
    """Finds executors and opens exchanges to them.

    ``find`` is the announcement of a peer that is present, else None; ``has_left`` says whether a peer took its leave.
    """

    streams: Streams
    find: Callable[[bytes], Announcement | None]
    has_left: Callable[[bytes], bool]

    async def connect(self, executor: bytes, timeout: float) -> None:
        """Connect to ``executor`` unless there is a connection.

        Raises:
            NetworkError, trio.TooSlowError: it cannot be reached within ``timeout`` seconds.
        """
        announcement, network = self.find(executor), self.streams.network
        if announcement is not None and executor not in network.peers():
            with trio.fail_after(timeout):
                await network.connect(executor, get_addresses(announcement))

    def open(self, executor: bytes) -> AbstractAsyncContextManager[Exchange]:
        """An exchange of the offload protocol."""
        return self.streams.open(executor, OFFLOAD_PROTOCOL)
