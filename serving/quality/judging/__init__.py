"""A model as a judge: without knowing whose they are, it says which of two answers to one question is better.

Read in this order:

1. ``ballot``: what a judge can say, and how its reply is read. Anything unclear is an abstention (pure).
2. ``prompt``: the judging prompt, a file that an owner can replace, and how texts are put into it (pure).
3. ``judge``: asks the owner's own backend.
4. ``cases``: questions, answers and injections for which the right ballot is known, in the files of ``cases/``.
5. ``trials``: which of them a judge is asked, in which order (pure).
6. ``measurement``: what its ballots say of the judge, and whether it should judge at all (pure).

``serving.quality.duels``, ``serving.cli`` and ``serving.config`` import this package.
"""
