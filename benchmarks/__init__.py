"""One program per claim: ``python -m benchmarks.NAME`` measures it, prints one table, writes JSON and a picture.

1. ``report``: the options, the figures and the JSON that all programs share.
2. ``machine`` says where a run took place, ``load`` sends HTTP requests, ``pictures`` draws charts.
3. ``gateway``, ``ledger``, ``verify``, ``beacon``, ``simulation``, ``first_token``, ``overlay``, ``newcomer``,
   ``judges``, ``ordering``, ``substitution``: the programs. ``model_variants`` makes other weights of the embedded
   model, ``substitution_servers`` checks nodes that serve them, and ``check_histories`` says what follows.
4. ``figures``: writes the tables of the documents from the published JSON in ``docs/figures``.

``python -m benchmarks`` runs all programs. Only tests may import this package.
"""
