"""The ``chain`` command: audit, show, export and prove a ledger without running a node.

``app`` has the commands; ``format`` and ``report_text`` have the text and JSON that they print.

Nothing in ``chain`` imports it. ``node`` runs it and hands it the way to read the chain of another node.
"""
