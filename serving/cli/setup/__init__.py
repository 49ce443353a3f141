"""Commands that make a node and start it: ``init``, ``run``, ``demo``, ``share``, ``join``, ``network``, ``backup``
and ``restore``.

``start`` has the commands (``ports`` chooses those of a new node), ``own_server`` the options by which ``run`` starts a
server of its own. ``share`` puts a server that runs already into a configuration, as it describes itself;
``share_command`` is the command for it. ``network`` makes the nodes of a new network and invitations to it, and
``join`` a node from an invitation. ``backup`` puts a node into a file, and makes one again from it.

Only ``serving.cli.app`` imports this package.
"""
