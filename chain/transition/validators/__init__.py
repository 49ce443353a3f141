"""Bonds, and who may vote: from a first bond to the loss of it.

1. ``registration``: first credits, for work that cannot be done in advance. ``staking``: bonds, and the models that
   they stand behind.
2. ``registry``: who may vote, and how a committee follows from the one before.
3. ``participation`` and ``jailing``: which votes count, and who is jailed for too few.
4. ``slashing``: the penalties for two contradicting votes and for a missed lead.

``block``, ``operations`` and ``epoch_processing`` in the parent folder import it; ``consensus`` and ``serving`` query
``registry`` and ``registration``.
"""
