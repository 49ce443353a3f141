"""The command lines ``wwwserve`` and ``chain``: definitions of commands, and what only a command needs.

Read in this order:

1. ``main``: the entry points. ``app``: the tree of all commands, which are imported when they are used
   (:mod:`chain.cli.tree`); ``completion`` prints what makes a shell complete them. ``errors``: how an error is shown.
2. ``setup``: ``init``, ``run`` and ``demo``, and commands about servers of models.
3. ``running``: commands to the node that runs in a data directory, over its Unix socket.
4. ``doctor``: what is wrong with a node, running or not.
5. ``ledger``: commands on a ledger, and on the directory of a node that is stopped.
6. ``quality``: how well the owner's backend judges and scores.
7. ``demo``: four nodes on this machine.

``app`` names ``node.run_node``, which the command ``run`` alone imports; ``node`` imports nothing of here but ``main``,
and ``serving.daemon`` what it prints.
"""
