"""The node as a process: its listeners, its start and its end in order.

Read in this order: ``lifecycle`` (signals, start, drain, stop), ``listeners`` (the API, the owner's, the public page),
``notices`` (what it says when it is ready, and when it stops), ``upkeep`` (what it does beside its work).
``garbage_collection`` is a setting of the interpreter, and ``runnable_node`` what they ask of the node itself.

Only ``node.run_node`` imports this package, and only when it runs: a simulated node needs none of it.
"""
