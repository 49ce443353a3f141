"""When a request gets its backend: bounded queues, and the policy of the owner.

Read in this order:

1. ``prediction`` (pure): when a node will have answered a request.
2. ``policy``: which requests to serve, queue, offload or decline. An owner's own class replaces it by an entry point.
3. ``admission``: two queues in front of the slots of a backend.
4. ``backend_pool``: the backends of the node, each with its admission.

``serving.offload``, ``serving.quality.duels`` and ``serving.dispatcher`` import this package.
"""
