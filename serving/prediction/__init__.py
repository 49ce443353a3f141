"""When a request will have been answered, here or by another node. Pure; nothing here offloads or queues.

Read in this order:

1. ``predicted_time``: the time of one request on one node, from that node's speed and what waits there.
2. ``predictor``: brings together what that takes: ``output_length``, ``affinity`` and ``correction``.
3. ``first_token_bound``: by when a first token is waited for.
4. ``speed`` measures the node's own backends; ``announced_load`` tells other nodes.

``serving.scheduling`` and ``serving.offload`` decide by it.
"""
