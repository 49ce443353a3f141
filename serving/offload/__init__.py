"""Offloading: one node answers another's request, and is paid for it.

Read in this order:

1. ``protocol``: the messages, with a diagram.
2. ``originator``: the side that asks and pays.
3. ``executor``: the side that answers and is paid.
4. ``context`` and ``settings``: what both sides share.

Neither side imports the other. ``serving.dispatcher``, ``serving.quality.duels`` and ``node`` import this package.
"""
