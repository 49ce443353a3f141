"""Discovery of the first peers through libp2p's DHT (Kademlia). Its servers need not belong to this network.

Reading order: ``kademlia`` (ids, distances, messages), ``lookup``, ``routing_table`` and ``provider_store`` (all pure),
``messages`` (the protobuf on the wire), ``server`` (answers the requests of others), ``service`` (finds peers for this
node and announces it).

Only the composition root imports this package. It stands above ``p2p.discovery``, to which it suggests what it finds.
"""
