"""How this node dials: ``tcp``, through ``socks5``, or from both ends at once (``simultaneous_open``).

Imported by the rest of ``p2p.host``, by composition roots for the rules of dialling, and by tests.
"""
