"""Discovery of the first peers through libp2p's DHT (Kademlia). Its servers need not belong to this network.

1. ``kademlia``: ids, distances, messages.
2. ``lookup``, ``routing_table`` and ``provider_store``: what is asked, known and kept; pure.
3. ``messages``: the protobuf on the wire.
4. ``server``: answers the requests of others.
5. ``service``: finds peers for this node and announces it.

Only the composition root imports this package. It stands above ``p2p.discovery``, to which it suggests what it finds.
"""
