"""The ``chain`` command: audit, show, export and prove a ledger without running a node.

1. ``app``: the commands, and their errors.
2. ``format``: addresses, amounts, times and blocks as text and as JSON.
3. ``report_text``: the report of an audit as text and as JSON.

Nothing in ``chain`` imports it. ``serving.cli`` runs it, hands it the way to read the chain of another node, and prints
in the same form.
"""
