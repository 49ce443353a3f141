"""Whether answers are worth their price, and whether the declared model gave them.

``same_model`` is the check that an answer came from the declared weights. It knows no ledger.

``serving.cli`` imports this package.
"""
