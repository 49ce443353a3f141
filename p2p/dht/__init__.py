"""Finding the first peers through libp2p's distributed hash table, with servers that need not be of this network.

Reading order: ``kademlia`` (ids, distances, messages), ``lookup``, ``routing_table`` and ``provider_store`` (all pure),
``messages`` (the protobuf on the wire), ``server`` (answers the requests of others), ``service`` (finds peers for this
node and announces it).

Only the composition root imports this package. It stands above ``p2p.discovery``, to which it suggests what it finds.
"""
