"""Discovery: how a node finds other nodes, is found by them, and notices which of them are gone.

1. ``service``: ``Discovery``, the service of one node, and its loops. The parts of it:
2. ``plumtree``: the broadcast tree over which announcements and suspect messages spread.
3. ``sync_handler``: what happens to a frame that a neighbour sends.
4. ``announcer``: what this node says about itself, and when.
5. ``prober``: dials peers that may be gone, and reports those that do not answer.
6. ``connection_manager``, ``dial_scheduler``, ``size_estimate``: which connections to make; pure. ``connector`` makes
   them.
7. ``peer_store``: peers remembered on disk. ``peer_tasks``: tasks that may fail without harm.

The pure state behind it is :mod:`p2p.peers`. Layers above p2p, ``node`` and ``p2p.dht`` import this package; it knows
the network by the interface in :mod:`p2p.network` only.
"""
