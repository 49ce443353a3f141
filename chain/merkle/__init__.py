"""Commitments and proofs: a list, a Merkle mountain range, a sparse Merkle tree, and snapshots of such a tree.

Each commitment has a proof with a method ``compute_root``: the proof holds if that is the known root.

1. ``list``: the operations of a block.
2. ``mountain_range``: all headers so far, as a list that only grows.
3. ``sparse_tree``: the state, as a map from keys to records.
4. ``snapshot``: a sparse tree in chunks; each chunk is checked by itself.

It knows only ``codec``, ``crypto`` and ``exceptions``. ``types``, ``state`` and everything above import it.
"""
