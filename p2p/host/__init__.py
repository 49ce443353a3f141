"""The host: the real network, over libp2p.

Reading order: ``network`` (the facade that the rest of the node uses), ``connections``, ``dialer`` and ``circuits``
(which peers are connected, how others are reached, through relays or not), ``connection_gater`` (which inbound
connections are accepted; pure), ``protocols`` and ``stream``, ``transport`` (TCP), ``isolated`` (streams to
strangers), ``gossip``, ``yamux_limits`` (pure), ``lifetime`` and ``descriptors`` (the tasks and the open files of a
host), and at last ``workarounds`` (faults of the library).

Apart from composition roots (``serving.config.build`` and the commands that dial a node) nothing imports this package:
everything above knows the interface in ``p2p.network`` and runs on the simulated network as well.
"""
