"""Exchanges of frames between two nodes: what every protocol above the host is spoken in.

1. ``frames``: the format of a frame, and the flow control and the ends of one exchange; pure.
2. ``exchanges``: ``Streams``, which opens, pools and serves streams, and ``Exchange``, one use of a stream.

Every layer above imports it: discovery, consensus and serving. It knows the network by the interface in
:mod:`p2p.network` only, so it runs on the real host and on the simulated network alike. ``exchanges`` is one module,
because a pooled stream, its exchange and the pool change each other's state.
"""
