"""Commands on a ledger: the command line ``chain``, with what only a node has.

``chain`` adds to :mod:`chain.cli` other nodes' chains and the owner's checkpoint (``chain_sources``), and ``restart``,
by which validators restart a chain that has lost its quorum. ``stopped_node`` opens the directory of a node that is
stopped.

``serving.cli.main`` and ``serving.cli.setup`` import this package.
"""
