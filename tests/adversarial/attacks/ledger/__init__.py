"""Attacks on what every node does for the ledger: mempool, blocks, state, synchronization, audit."""
