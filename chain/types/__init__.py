"""Records that are hashed or signed: operations, blocks, votes and certificates, validator sets. No rules on a state.

What can be checked of a record alone is here: its form, its signatures, whether a certificate has a quorum.

1. ``validators``: stake, quorum, and who leads a view.
2. ``votes``: votes and certificates, and which votes contradict each other.
3. ``operations``: everything that an account can ask for.
4. ``blocks``: header and body, and what the block id covers.

It imports ``merkle`` and the modules ``codec``, ``crypto`` and ``exceptions``. Everything above imports it.
"""
