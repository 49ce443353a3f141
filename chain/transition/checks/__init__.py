"""Checks of the model: whether an answer came from the weights that its executor declares.

The same draw that makes a duel of a paid capture (:mod:`chain.transition.duels.draw`) makes a check of it, if the
executor declared an identity of the model. Accounts with an equal identity score the transcript that the executor has
committed to, and each reports two numbers. Failed checks add up, until they are proof
(:mod:`chain.state.sequential_test`).

1. ``opening``: who checks, and what is set aside for it; the levy that pays for it.
2. ``duties``: commit and reveal, the operations of checkers.
3. ``finding``: what the reports say.
4. ``settlement``: the end of a stage, and what follows from a finding: payments, the history of the account, a
   substitution.
5. ``events``: what a block did about checks, for those who watch.
"""
