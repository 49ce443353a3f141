"""What is wrong with a node, and what mends it: said in the same words by status, doctor, dashboard and metrics.

``troubles`` is the catalogue of all that can be wrong. ``machine`` looks at disk and event loop, ``self_checks`` at
configuration, ports and clock, and ``health`` says what is wrong with this node now.

Imported by the rest of ``serving.admin``, by the dashboard, and by the commands, which share the catalogue.
"""
