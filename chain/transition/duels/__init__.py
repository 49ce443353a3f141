"""Duels: a share of the answers that were paid for is answered again by another account, and judged.

The ledger decides all of it, from the beacon and from what is in its blocks, so that every node and every audit comes
to the same duels, the same judges and the same verdicts. An executor learns that it is compared, and with whom, when
its answer is committed to and paid for.

1. ``draw``: which captures become duels, and when that is decided.
2. ``opening``: who takes part, and what is set aside for it.
3. ``stages``: answer, commit, reveal; each ends when all is there, or at its deadline.
4. ``duties``: the operations of those who take part.
5. ``verdict``: what the ballots say.
6. ``settlement``: what follows from it, and from silence: payments, a second panel, the executor's rating
   (:mod:`chain.state.ratings`). ``money``: amounts, and how they are paid.
7. ``events``: what a block did about duels, for those who watch.
"""
