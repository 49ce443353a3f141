"""Forwards operations of this node to the leader of the next block, which then has them sooner than by gossip.

The first is sent at once. Those that come within :data:`FORWARD_INTERVAL_S` after it are sent together: a message costs
both ends several times as much as the operations in it, and :mod:`consensus.network.gossip` limits how many messages of
a member the leader takes. Nothing depends on a forward, since gossip brings the same operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from consensus.network.committee_streams import CommitteeStreams
from consensus.network.gossip import Batch
from consensus.simplex.messages import FORWARDED_KIND

FORWARD_INTERVAL_S = 0.05
"""Least seconds between two messages."""
MAX_FORWARD_BYTES = 64 * 1024
"""Bytes of operations that are forwarded at a time; those beyond are left to gossip."""


class Forwarder:
    """Gathers operations for the leader. ``get_leader`` says who that is at the moment."""

    def __init__(self, committee: CommitteeStreams, get_leader: Callable[[], bytes]) -> None:
        self._committee = committee
        self._get_leader = get_leader
        self._operations: list[bytes] = []
        self._size = 0
        self._filled = trio.Event()

    def put(self, operation: bytes) -> None:
        """Forward an encoded operation soon. Never waits, and does nothing unless this node is a validator."""
        if self._size + len(operation) <= MAX_FORWARD_BYTES:
            self._operations.append(operation)
            self._size += len(operation)
            self._filled.set()

    async def run(self) -> None:
        """Forward until cancelled."""
        while True:
            await self._filled.wait()
            operations, self._operations, self._size, self._filled = self._operations, [], 0, trio.Event()
            self.send(self._get_leader(), operations)
            await trio.sleep(FORWARD_INTERVAL_S)

    def send(self, leader: bytes, operations: Sequence[bytes]) -> None:
        """Forward encoded operations at once, at most :data:`MAX_FORWARD_BYTES` of them."""
        self._committee.send(leader, FORWARDED_KIND + Batch(tuple(operations)).encode(), is_hint=True)
        self._committee.flush()
