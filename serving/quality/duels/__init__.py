"""A node's part in duels and in checks of the model: it hands texts over, answers as a challenger, judges, and scores.

The ledger says who has to do what (:mod:`chain.transition.duels`, :mod:`chain.transition.checks`); this package does
it. All duties follow from what is open in the last final state and from a small table on the disk, so that a node goes
on after a restart.

Read in this order:

1. ``texts``: which texts a duel or a check is about, who has them, and who may have them when (pure).
2. ``table``: what a node must still know after a restart, sealed on the disk.
3. ``turns``: the progress of each duty; ``duties`` and ``check_duties``: which duties there are (pure).
4. ``protocol``: the messages by which texts are asked for; ``handover``: both sides of it.
5. ``reading``: what a judge reads of a request and of an answer (pure).
6. ``backend_work``: asks the node's own backends for an answer or a ballot, while no request waits for them;
   ``check_work``: for the scores of a transcript.
7. ``identities``: the taps on answers that others may check, and whether a backend can honour what is declared.
8. ``history``, ``check_history``: what became of the duels and checks that this node took part in.
9. ``runner``: the loop that carries the duties out.

Only ``node``, ``serving.admin`` and ``serving.config`` import this package.
"""
