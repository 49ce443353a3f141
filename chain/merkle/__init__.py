"""Commitments and proofs: a list, a Merkle mountain range, a sparse Merkle tree, and snapshots of such a tree.

Each commitment comes with a proof whose ``compute_root`` is all there is to checking it.

Read ``list``, ``mountain_range``, ``sparse_tree``, then ``snapshot`` (a tree in chunks that prove themselves).

It knows only ``codec``, ``crypto`` and ``exceptions``. ``types``, ``state`` and everything above import it.
"""
