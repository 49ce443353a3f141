"""Exchanges of frames between two nodes: what every protocol above the host is spoken in.

1. ``frames``: the format of a frame, and the flow control and the ends of one exchange; pure.
2. ``pooled_stream``: a stream, at either end, which carries one exchange after another.
3. ``exchange``: what the tasks of an exchange call, to send and to receive.
4. ``exchanges``: ``Streams``, which opens, pools and serves streams, and runs the handlers.
5. ``unread_bytes`` bounds what all of them hold unread, and ``alarms`` ends the waits whose time is over.

Every layer above imports it: discovery, consensus and serving. It knows the network by the interface in
:mod:`p2p.network` only, so it runs on the real host and on the simulated network alike. A stream and its exchange
change each other's state.
"""
