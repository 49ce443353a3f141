"""Whom to ask: random connected peers, but not those who lied or kept silent a short while ago."""

from __future__ import annotations

from collections.abc import Container, Iterable

import structlog
import trio

from chain.collections import BoundedDict
from chain.crypto import format_address
from consensus.sync.messages import SYNC_FRAME_TIMEOUT_S, SYNC_PROTOCOL, Question, Request
from p2p.network import NetworkError
from p2p.runtime import Runtime
from p2p.streams.exchanges import Streams

logger = structlog.get_logger(__name__)

AVOID_SILENT_S = 10.0
"""Seconds for which a peer that did not answer is not asked again."""
AVOID_LIAR_S = 300.0
"""Seconds for which a peer that sent something invalid is not asked again."""
MAX_REMEMBERED_DELAYS = 256
"""Peers whose time to answer is remembered."""


class SyncPeers:
    """The peers of one node, as sync sees them."""

    def __init__(self, streams: Streams, runtime: Runtime) -> None:
        self.streams = streams
        self._random = runtime.random
        self._avoided: dict[bytes, float] = {}
        self._seconds: BoundedDict[bytes, float] = BoundedDict(MAX_REMEMBERED_DELAYS)

    def avoid(self, peer: bytes, seconds: float, reason: str) -> None:
        """Ask others for a while."""
        self._avoided[peer] = trio.current_time() + seconds
        logger.debug("sync: peer avoided", peer=format_address(peer), seconds=seconds, reason=reason)

    def shuffle(self, peers: Iterable[bytes]) -> list[bytes]:
        """``peers`` in random order, the same for the same seed."""
        ordered = sorted(peers)
        self._random.shuffle(ordered)
        return ordered

    def get_peers(self, without: Container[bytes] = (), first: Container[bytes] = ()) -> list[bytes]:
        """The connected peers that may be asked, in random order; those of ``first`` before the others."""
        now = trio.current_time()
        self._avoided = {peer: until for peer, until in self._avoided.items() if until > now}
        connected = self.streams.network.peers().difference(self._avoided)
        others = [peer for peer in self.shuffle(connected) if peer not in without]
        return sorted(others, key=lambda peer: peer not in first)

    def pick(self, without: Container[bytes] = ()) -> bytes | None:
        """One of them: the faster of two, so that a slow peer gets few of many questions. None if there is none."""
        return min(self.get_peers(without)[:2], key=lambda peer: self._seconds.get(peer, 0.0), default=None)

    async def ask(self, peer: bytes, question: Question) -> bytes | None:
        """The one frame that answers a question; None if there is none in time, and then the peer is avoided."""
        asked_at = trio.current_time()
        try:
            return await self.streams.request(peer, SYNC_PROTOCOL, Request(question).encode(), SYNC_FRAME_TIMEOUT_S)
        except NetworkError as error:
            self.avoid(peer, AVOID_SILENT_S, str(error))
            return None
        finally:
            self._seconds[peer] = trio.current_time() - asked_at
