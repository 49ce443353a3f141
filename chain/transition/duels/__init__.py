"""Duels: for a share of the paid answers, another account answers the request again, and judges compare.

The ledger decides everything from the beacon and from its blocks, so that every node and every audit gets the same
duels, the same judges and the same verdicts. An executor learns of a duel, and of its challenger, only after its answer
is committed to and paid for.

1. ``draw``: which captures become duels, and when that is decided.
2. ``opening``: who takes part, and what is set aside for it.
3. ``stages``: answer, commit, reveal; each ends when all is there, or at its deadline.
4. ``duties``: the operations of those who take part.
5. ``verdict``: what the ballots say.
6. ``settlement``: what follows from it, and from silence: payments, a second panel, the executor's rating
   (:mod:`chain.state.ratings`). ``money``: amounts, and how they are paid.
7. ``events``: what a block did about duels, for those who watch.
"""
