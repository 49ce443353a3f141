"""One program per claim: ``python -m benchmarks.NAME`` measures it, prints one table, writes JSON and a picture.

Read ``report`` first: the options, the figures and the JSON that all programs share; ``machine`` says where a run took
place, ``pictures`` draws its charts, ``load`` sends HTTP requests. ``python -m benchmarks`` runs all programs, and
``python -m benchmarks.figures`` writes the tables of the documents from the published JSON in ``docs/figures``.
Nothing but tests may import this package.
"""
