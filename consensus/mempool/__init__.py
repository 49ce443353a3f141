"""Operations that wait for a block. Pure: time is passed in.

Read ``pool`` first: what is taken, what is ready, and what a final block changes. ``entries`` has its records,
``eviction`` finds the account that makes room when the pool is full, and ``packing`` chooses operations for a block.

Imported by the driver (to build blocks), by ``consensus.network.ingress`` (to add operations) and by the engine.
"""
