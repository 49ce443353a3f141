"""Whether answers are worth their price, and whether the declared model gave them.

``judging`` compares two answers to one question. ``same_model`` is the check that an answer came from the declared
weights. Neither knows the ledger or the other. ``duels`` is a node's part in the duels that the ledger draws, and
``model_reports`` what has come out of them for each model.

``node``, ``serving.admin``, ``serving.api``, ``serving.cli`` and ``serving.config`` import this package.
"""
