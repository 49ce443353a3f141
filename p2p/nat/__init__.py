"""NAT traversal: finding out whether others can dial this node, and being reached if they cannot.

Reading order: ``dial_back`` (whether others can dial this node; AutoNAT), ``port_mapping`` (asking the gateway to
forward ports; UPnP), ``relay_client`` and ``relay_server`` (circuits through a peer that both ends can dial; circuit
relay v2), ``hole_punching`` (from a circuit to a direct connection; DCUtR).

Each module defines as a protocol what it needs of the network beyond ``p2p.network``; the host provides it. The
decisions are pure: ``ReachabilityEstimate``, ``RelayTable``, ``PunchSchedule``. Only ``p2p.host`` imports this package,
and composition roots for ``RelayLimits``.
"""
