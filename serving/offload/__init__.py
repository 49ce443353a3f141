"""Offloading: one node answers another's request, and is paid for it.

Read in this order:

1. ``protocol``: the messages, with a diagram.
2. ``originator``: draws candidates, and asks them in the order of ``choice`` (pure); ``attempt`` is its side of the
   exchange with one of them, with ``patience`` and ``silence`` (pure). ``dialer`` reaches it, and ``decoding_share``
   (pure) bounds the time its answers take.
3. ``executor``: decides on offers, as many as ``offer_rates`` (pure) admits and ``offered_bodies`` and ``bond_shares``
   have room for; ``session`` is its side of one that was accepted, with ``answer_buffer``.
4. ``context`` and ``settings``: what both sides share.

``serving.dispatcher``, ``serving.quality.duels`` and ``node`` import this package.
"""
