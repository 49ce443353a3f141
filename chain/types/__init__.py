"""Records that are hashed or signed: operations, blocks, votes and certificates, validator sets. No rules on a state.

What can be checked of a record alone is here: its form, its signatures, whether a certificate has a quorum.

Read ``validators`` (stake, quorum, leader), ``votes``, ``operations``, then ``blocks``.

It imports ``merkle`` and the modules ``codec``, ``crypto`` and ``exceptions``. Everything above imports it.
"""
