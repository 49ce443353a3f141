"""What one node knows about the others: pure, without I/O and without a clock.

1. ``announcement``: what a peer says about itself, and which of two announcements stands.
2. ``table``: the peers that are present, and the tombstones of those that are not. The host and the DHT read it too,
   as a ``p2p.network.PeerDirectory``.
3. ``suspect_message``, ``failure_detector``: how a peer is declared dead (SWIM with suspicion), and what liars can do.
4. ``anti_entropy``: how the tables of two neighbours become equal, frame by frame.

:mod:`p2p.discovery` does the I/O around these. Layers above p2p import announcements, states and changes; inside p2p
only ``p2p.discovery`` and ``p2p.dht`` import this package.
"""
