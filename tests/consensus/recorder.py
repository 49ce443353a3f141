"""An environment of the driver that notes what agreement asks for."""

from __future__ import annotations

from chain.types.votes import Certificate, Vote
from consensus.block_tree import ExecutedBlock
from consensus.network.compact_blocks import CompactPropose


class Recorder:
    """Notes what agreement asks for."""

    def __init__(self) -> None:
        self.final: list[int] = []
        self.fetched: list[bytes] = []
        self.sync_requests = 0
        self.conflicts: list[tuple[Vote, Vote]] = []

    def on_final(self, executed: list[ExecutedBlock], certificate: Certificate) -> None:
        self.final += [node.block.height for node in executed]

    def fetch(self, block_id: bytes, peers: tuple[bytes, ...]) -> None:
        self.fetched.append(block_id)

    def complete(self, message: CompactPropose) -> None:
        raise AssertionError("no proposal here is large enough to be compact")

    def request_sync(self) -> None:
        self.sync_requests += 1

    def on_conflict(self, first: Vote, second: Vote) -> None:
        self.conflicts.append((first, second))

    def forward_work(self, leader: bytes) -> None:
        pass
