"""Operations that wait for a block. Pure: time is passed in.

1. ``pool``: what is taken, what is ready, and what a final block changes.
2. ``entries``: its records, one for each operation and each account.
3. ``eviction``: finds the account that makes room when the pool is full.
4. ``packing``: chooses operations for a block.

The engine constructs it, the proposer takes from it, ``consensus.network.ingress`` adds to it, and the driver tells it
what is final. The wallet imports the longest wait.
"""
