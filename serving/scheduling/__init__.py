"""When a request gets its backend: bounded queues, and the policy of the owner.

Read in this order:

1. ``prediction`` (pure): when a node will have answered a request. ``predictor`` joins what that takes:
   ``output_length``, ``affinity``, ``correction``. ``speed`` measures own backends; ``announced_load`` tells others.
2. ``policy``: which requests to serve, queue, offload or decline. An owner's own class replaces it by an entry point.
3. ``queueing``: the order of a queue, and the wait that follows from it. ``admission``: two queues before its slots.
4. ``weekly_schedule`` and ``availability``: at which times other nodes are served at all.
5. ``backend_pool``: the backends of the node, each with its admission.

``serving.offload``, ``serving.quality.duels`` and ``serving.dispatcher`` import this package.
"""
