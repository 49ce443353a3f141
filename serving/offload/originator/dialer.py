"""How the originator reaches executors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import trio

from p2p.peers.announcement import Announcement
from p2p.streams.exchange import Exchange
from p2p.streams.exchanges import Streams
from serving.offload.protocol import OFFLOAD_PROTOCOL


@dataclass(frozen=True, slots=True)
class ExecutorDialer:
    """Finds executors and opens exchanges to them.

    ``find`` returns the announcement of a peer that is present, else None; ``get_addresses`` the addresses of a peer,
    and ``has_left`` whether it has said that it leaves.
    """

    streams: Streams
    find: Callable[[bytes], Announcement | None]
    get_addresses: Callable[[bytes], Sequence[str]]
    has_left: Callable[[bytes], bool]

    async def connect(self, executor: bytes, timeout: float) -> None:
        """Connect to ``executor`` unless there is a connection.

        Raises:
            NetworkError, trio.TooSlowError: it cannot be reached within ``timeout`` seconds.
        """
        network = self.streams.network
        if self.find(executor) is not None and executor not in network.peers():
            with trio.fail_after(timeout):
                await network.connect(executor, self.get_addresses(executor))

    def open(self, executor: bytes) -> AbstractAsyncContextManager[Exchange]:
        """An exchange of the offload protocol."""
        return self.streams.open(executor, OFFLOAD_PROTOCOL)
