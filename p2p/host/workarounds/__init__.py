"""Workarounds for faults of libp2p 0.8.1: what is at fault, what is done about it, and when it can be deleted.

A *guard* overrides one method of one library class, or is one setting of the process. Its docstring says first what
the library does and then what the guard does. A test in ``tests/p2p/host/workarounds`` shows the fault with the guard
off and its absence with the guard on. To move to a newer library: delete a guard, run its test, and leave it deleted if
the test passes.

One file per class of the library: ``process`` (module-wide settings), ``connection`` (encryption), ``yamux`` (the
multiplexer and its streams), ``swarm`` (connections), ``host`` (protocols, and how all is put together). The guards of
gossip are in ``p2p.host.gossip``. Only ``p2p.host`` and its tests import these.
"""
