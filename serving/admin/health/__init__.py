"""What is wrong with a node, and what mends it: said in the same words by status, doctor, dashboard and metrics.

``troubles`` is the catalogue of all that can be wrong, and ``diagnosis`` has the rules by which it is found.
``machine`` looks at disk and event loop, ``self_checks`` at configuration, ports and clock. ``health`` gathers the
facts of this node and says what is wrong with it now.

Imported by the rest of ``serving.admin``, by the dashboard, and by the commands, which share the catalogue.
"""
