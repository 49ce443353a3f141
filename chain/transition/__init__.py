"""The rules: how a block changes the state, and what makes it valid. Pure functions over ``state`` and ``types``.

1. ``block``: everything that must hold for a block, in order. ``epochs``: what is fixed for an epoch; ``rounds``: when
   a change of who serves comes into force.
2. ``operations`` with ``context`` and ``fees``: the form of an operation, its fee, and the dispatch to its rule.
3. ``payments`` with ``deposits`` and ``income``: who pays whom, and when.
4. ``duels`` and ``checks``: for a share of the answers, another node answers again and judges compare, or the model
   is checked.
5. ``validators`` with ``epoch_processing``: bonds, who may vote, who is jailed, and what the end of an epoch does.
6. ``justification``: what a block shows about the views before it.
7. ``restart`` and ``restart_file``: going on without a quorum.

``light``, ``store``, ``audit``, ``consensus`` and ``serving`` call them, so that a node, a light client and an auditor
apply the same rules.
"""
