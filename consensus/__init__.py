"""Agreement on the ledger: how blocks of :mod:`chain` are proposed, voted for, made final and brought to every node.

The protocol is Simplex (Chan and Pass, 2023), weighted by stake. Read it from the inside out:

1. ``simplex``: the protocol as a state machine without I/O; its docstring in ``core`` is the specification.
2. ``voting``: what makes a vote durable before it is sent, and when a validator that lost votes may vote again.
3. ``block_tree`` and ``driver``: one node's part, which carries out what the core orders.
4. ``mempool``: operations that wait for a block, and how a block is packed.
5. ``network``: committee streams, gossip, compact blocks; ``receiver`` takes what comes, ``rebroadcast`` repeats.
6. ``sync``: how a node that was away gets blocks, or a state in their place.
7. ``engine``: all of it together, and what the rest of a node asks of it; ``validator_tasks`` run beside it.

``serving`` and ``node`` may import this package; it imports ``chain`` and ``p2p``, never those.
"""
