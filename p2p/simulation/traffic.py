"""What real links would carry: the bytes that each node of a simulated network sends.

Streams count with their framing, connections at a flat price, and gossip as a mesh of :data:`MESH_DEGREE` forwards it,
which is to every mesh neighbour but one.
"""

from __future__ import annotations

from dataclasses import dataclass

CHUNK_OVERHEAD_BYTES = 30
"""What each chunk of a stream carries beside its bytes: 12 of Yamux, 18 of Noise."""
OPEN_BYTES = 60
"""Bytes that each end of a new stream sends to agree on the protocol, beside its name."""
CONNECT_BYTES = 1200
"""Bytes that each end of a new connection sends, about: TCP, Noise, multistream, identify, gossip's greeting."""
RESERVE_BYTES = 300
"""Bytes that each end sends for a reservation, about, beside opening a stream."""
GOSSIP_OVERHEAD_BYTES = 190
"""What a gossip message carries beside its payload: sender, sequence number, topic, key, signature."""
MESH_DEGREE = 6
"""Neighbours that a node forwards gossip to; the others receive notices (IHAVE)."""
NOTICES = 5
"""Notices of one message to each of the other neighbours: one in each heartbeat of the window."""
NOTICE_BYTES = 50
"""Bytes of one notice."""


@dataclass(slots=True)
class Traffic:
    """What one node has sent so far: bytes, and messages (chunks of streams, gossip forwarded)."""

    messages: int = 0
    stream_bytes: int = 0
    connect_bytes: int = 0
    gossip_bytes: int = 0

    @property
    def bytes(self) -> int:
        """All bytes together."""
        return self.stream_bytes + self.connect_bytes + self.gossip_bytes

    def count_connection(self) -> None:
        """A new connection."""
        self.connect_bytes += CONNECT_BYTES

    def count_opening(self, protocol: str) -> None:
        """A new stream: each end names the protocol."""
        self.messages += 1
        self.stream_bytes += OPEN_BYTES + len(protocol)

    def count_reservation(self) -> None:
        """A place at a relay asked for, or given."""
        self.messages += 2
        self.stream_bytes += OPEN_BYTES + RESERVE_BYTES

    def count_chunk(self, size: int) -> None:
        """A piece of a stream, or its end."""
        self.messages += 1
        self.stream_bytes += size + CHUNK_OVERHEAD_BYTES

    def count_gossip(self, size: int, neighbours: int, received: int) -> None:
        """A message with ``size`` bytes of payload goes to the mesh, but not back to where it came from.

        ``received`` is how many neighbours it came from; those outside of the mesh receive notices.
        """
        mesh = min(neighbours, MESH_DEGREE)
        told = min(neighbours - mesh, MESH_DEGREE)
        forwarded = max(mesh - received, 0)
        self.messages += forwarded
        self.gossip_bytes += forwarded * (size + GOSSIP_OVERHEAD_BYTES) + told * NOTICES * NOTICE_BYTES
