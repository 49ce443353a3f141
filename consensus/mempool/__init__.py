"""Operations that wait for a block. Pure: time is passed in.

1. ``pool``: what is taken, what is ready, and what a final block changes.
2. ``entries``: the records of operations and of accounts.
3. ``room``: who makes room when the pool is full; ``eviction`` finds the account.
4. ``revalidation``: what is judged again after a block.
5. ``packing``: chooses operations for a block.

The engine constructs it, the proposer takes from it, ``consensus.network.ingress`` adds to it, and the driver tells it
what is final. The wallet imports the longest wait.
"""
