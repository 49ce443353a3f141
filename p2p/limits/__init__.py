"""What a peer may take of this node, in rate, bytes, slots and places, and what happens when it takes more. Pure.

Reading order: ``rate_limit`` (token buckets and byte budgets), ``shared_slots`` (streams and the like: whoever has most
gives way), ``places`` (in a table or among connections: bought by stake, or drawn), ``peer_score`` (scores and bans),
``dial_pace`` (how often an address is dialled because strangers say so).

The rest of ``p2p`` imports this package, and so do ``consensus`` and ``serving`` where they serve peers.
"""
