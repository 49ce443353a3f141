"""What the driver of agreement asks of the program around it."""

from __future__ import annotations

from typing import Protocol

from chain.types.votes import Certificate, Vote
from consensus.block_tree import ExecutedBlock
from consensus.network.compact_blocks import CompactPropose


class Environment(Protocol):
    """The methods return at once."""

    def on_final(self, executed: list[ExecutedBlock], certificate: Certificate) -> None:
        """These blocks have just become final, and are on disk."""

    def fetch(self, block_id: bytes, peers: tuple[bytes, ...]) -> None:
        """Get a block, preferably from ``peers``, and pass it to :meth:`consensus.driver.driver.Driver.on_fetched`."""

    def complete(self, message: CompactPropose) -> None:
        """Reconstruct a proposal that is awaited, and pass it to :meth:`consensus.driver.driver.Driver.on_message`."""

    def request_sync(self) -> None:
        """This node may be behind: sync."""

    def on_conflict(self, first: Vote, second: Vote) -> None:
        """A validator signed two votes that exclude each other; their signatures hold."""

    def forward_work(self, leader: bytes) -> None:
        """Send ready operations to ``leader``, who seems not to have them."""
