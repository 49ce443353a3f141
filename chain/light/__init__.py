"""Following and checking a chain without executing it.

1. ``client``: verifies the last header of every epoch by the committee that the header before it names, from genesis
   or from a checkpoint on.
2. ``proofs``: one account or one operation, with the hashes that lead to a header that a client has verified.

It applies the rules of finality in ``transition``, so that a light client and a node cannot disagree. It opens no
store: its input comes from the caller. ``store``, ``audit``, ``consensus.sync`` and the command line import it.
"""
