"""The ``chain`` command: audit, show, export and prove a ledger, of a running node or of what one left on the disk.

1. ``contract``: exit codes, errors and JSON of all commands. ``options``: what several take. ``tree``: commands that
   are imported when they are used.
2. ``app``: the commands, defined in ``look``, ``audit_commands`` and ``prove``.
3. ``places``: where they read a chain.
4. ``text``: amounts, times and tables for people. ``format``: accounts and proofs; ``report_text``, ``duels`` and
   ``checks``: what an audit and a replay find.

Nothing in ``chain`` imports it. ``serving.cli`` runs it, hands it the way to read the chain of another node, and
defines and prints its own commands in the same way.
"""
