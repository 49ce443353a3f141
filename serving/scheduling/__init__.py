"""When a request gets its backend: bounded queues, and the policy of the owner.

Read in this order:

1. ``policy``: which requests to serve, queue, offload or decline. An owner's own class replaces it by an entry point.
   It compares the times of ``serving.prediction``.
2. ``queueing``: the order of a queue, and the wait that follows from it. ``admission``: two queues before its slots.
3. ``weekly_schedule`` and ``availability``: at which times other nodes are served at all.
4. ``backend_pool``: the backends of the node, each with its admission, and until when content of its ``silent_answers``
   must begin. ``own_prediction``: what the node expects of them for one request.

``serving.offload``, ``serving.quality.duels`` and ``serving.dispatcher`` import this package.
"""
