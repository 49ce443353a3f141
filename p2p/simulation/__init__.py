"""A network, a clock and chance for tests and benchmarks, all fixed by a seed.

1. ``runtime``: ``run_simulation`` runs a program under a clock that jumps to the next event; ``SimulatedRuntime`` is
   the :class:`p2p.runtime.Runtime` of its nodes.
2. ``internet``: ``SimulatedInternet`` carries gossip and streams between nodes, with latency, loss, partitions, NATs,
   relays and crashes. ``network``: ``SimulatedNetwork`` is a node's end of it, and a :class:`p2p.network.Network`.
3. ``events``, ``stream``, ``traffic``: what it consists of: the queue of what is due, both ends of a stream, and the
   bytes that real links would carry.

Only tests and benchmarks import it. It imports the interfaces in p2p and nothing of discovery, host or NAT traversal,
so the code that is tested is the same as on real sockets.
"""
