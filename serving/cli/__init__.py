"""The command lines ``wwwserve`` and ``chain``: definitions of commands, and what only a command needs.

Read in this order:

1. ``app``: ``init``, ``run`` and ``demo``, and the tree of all commands. ``node`` hands in how a node is run.
2. ``owner``, ``wallet``: commands to the running node, over ``admin_client``.
3. ``chain``, ``restart``: commands on a ledger; ``stopped_node`` opens the directory of a node that is stopped.
4. ``judge``: how well the owner's backend judges; ``judge_run`` measures it.
5. ``demo``: four nodes on this machine, each a ``node_process``.
6. ``errors``: which errors are one line on stderr. ``logs``: what the node writes about itself, at the rate of
   ``log_rate``.

Only ``node`` imports this package; tests and benchmarks use ``node_process`` too.
"""
