"""One program per claim: each measures it, prints one table, writes JSON and a picture.

``python -m benchmarks NAME`` runs one, and ``python -m benchmarks`` all.

1. ``report``: the options, the figures and the JSON that all programs share. ``machine`` says where a run took place,
   ``pictures`` draws charts.
2. ``endpoint``: what users of the API meet. ``blockchain``: the ledger. ``network``: the overlay, and nodes that come.
3. ``evaluation``: the evaluation of the paper. ``quality``: judges, duels and checks of the model.
4. ``figures``: writes the tables of the documents from the published JSON in ``docs/figures``.

Only tests may import this package.
"""
