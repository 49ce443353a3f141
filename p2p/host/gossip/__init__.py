"""Gossip over libp2p, with guards against what one peer can do to another.

Reading order: ``rpc`` (bounds on what is read, queued and kept), ``pubsub`` (messages: signed, checked, delivered) and
``router`` (the mesh: whom a message goes to). Only ``p2p.host`` and its tests import this package.
"""
