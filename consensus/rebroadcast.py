"""What a node gossips again: its own operations until they are final, and finality that no other node has shared."""

from __future__ import annotations

import trio

from chain.types.operations import SignedOperation
from chain.types.votes import Certificate
from consensus.block_tree import ExecutedBlock
from consensus.mempool.pool import Mempool
from consensus.network.gossip import GossipPublisher
from p2p.runtime import Runtime

PERIOD_S = 0.25
"""Seconds between two looks at what is due."""
IDLE_PERIOD_S = 1.0
"""Seconds between two looks while nothing is waiting."""
REGOSSIP_S = 2.0
"""Seconds after which an own operation that is not final yet is gossiped again."""
SHARED_DELAY_S = 1.0
"""Seconds that an operation has to become final which its author gossips; then this node gossips it too."""
MIN_SHARE_DELAY_S = 0.2
"""Least seconds that a validator that did not propose a block waits for another node to share its finality."""
MAX_SHARE_DELAY_S = 0.5
"""Most seconds of that wait."""


class Rebroadcaster:
    """Publishes on the topics ``ops``, ``blocks`` and ``certs``; also lets the mempool expire what waits too long."""

    def __init__(self, me: bytes, mempool: Mempool, gossip: dict[str, GossipPublisher], runtime: Runtime) -> None:
        self._me = me
        self._mempool = mempool
        self._gossip = gossip
        self._runtime = runtime
        self._own: dict[bytes, float] = {}  # own operations that are not final, and when they were last gossiped
        self._certificate: tuple[float, Certificate] | None = None  # to be gossiped then, unless another does

    def add(self, operation: SignedOperation, *, is_shared: bool = False) -> None:
        """Gossip an operation that was submitted here, now and again until it is final.

        ``is_shared``: others have gossiped it, or should have. It is gossiped here if it is not final in time all the
        same.
        """
        now = trio.current_time()
        if is_shared:
            self._own.setdefault(operation.id, now - REGOSSIP_S + SHARED_DELAY_S)
            return
        self._own[operation.id] = now
        self._gossip["ops"].put(operation.encoded)

    def on_final(self, executed: list[ExecutedBlock], certificate: Certificate, is_validator: bool) -> None:
        """Share own blocks and their finality at once; that of others, if this node is a validator, a little later."""
        for node in executed:
            for operation in node.block.body.operations:
                self._own.pop(operation.id, None)
            if node.block.header.proposer == self._me:
                self._gossip["blocks"].put(node.block.id + node.block.encoded)
        if executed[-1].block.header.proposer == self._me:
            self._gossip["certs"].put(certificate.encode())
            self._certificate = None
        elif is_validator:
            delay = MIN_SHARE_DELAY_S + (MAX_SHARE_DELAY_S - MIN_SHARE_DELAY_S) * self._runtime.random.random()
            due = trio.current_time() + delay
            if self._certificate is not None:
                due = min(due, self._certificate[0])
            self._certificate = (due, certificate)

    def is_to_share(self, certificate: Certificate) -> bool:
        """Whether this node is about to gossip the finality of the same block."""
        return self._certificate is not None and certificate.block_id == self._certificate[1].block_id

    def drop_certificate(self) -> None:
        """Another node has shared the finality of the block."""
        self._certificate = None

    async def run(self) -> None:
        """Publish what is due until cancelled."""
        while True:
            await trio.sleep(PERIOD_S if self._own or self._certificate else IDLE_PERIOD_S)
            now = trio.current_time()
            self._mempool.expire(now)
            for operation_id, since in list(self._own.items()):
                operation = self._mempool.get(operation_id)
                if operation is None:
                    del self._own[operation_id]
                elif now - since >= REGOSSIP_S:
                    self._own[operation_id] = now
                    self._gossip["ops"].put(operation.encoded)
            if self._certificate is not None and now >= self._certificate[0]:
                self._gossip["certs"].put(self._certificate[1].encode())
                self._certificate = None
