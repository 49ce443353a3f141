"""The command lines ``wwwserve`` and ``chain``: definitions of commands, and what only a command needs.

Read in this order:

1. ``main``: the entry points. ``app``: the tree of all commands, which are imported when they are used
   (:mod:`chain.cli.tree`); ``completion`` prints what makes a shell complete them. ``errors``: how an error is shown.
2. ``start``: ``init``, ``run`` and ``demo``. ``share`` and ``share_command``, ``own_server``: servers of models.
3. ``owner`` (with ``status``), ``wallet``, ``policy``, ``keys``, ``dashboard``, ``ask``: commands to the running node,
   over its Unix socket (``admin_client``).
4. ``doctor``, ``doctor_checks``: what is wrong with a node, running or not.
5. ``chain``, ``chain_sources``, ``restart``: commands on a ledger; ``stopped_node`` opens the directory of a node that
   is stopped.
6. ``judge``, ``judge_run``, ``calibrate``: how well the owner's backend judges and scores.
7. ``demo``: four nodes on this machine, each a ``node_process``.
8. ``logs``: what the node writes about itself, at the rate of ``log_rate``.

``app`` names ``node.run_node``, which the command ``run`` alone imports; ``node`` imports nothing of here but ``main``
and what it prints. Tests and benchmarks use ``node_process`` too.
"""
