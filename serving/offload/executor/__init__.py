"""The side of an offload that answers and is paid.

Read in this order:

1. ``executor``: decides on offers, as many as ``offer_rates`` (pure) admits and ``offered_bodies`` and ``bond_shares``
   have room for.
2. ``session``: an offer that was accepted, from its ``job`` to its ``session_payment``.
3. ``executor_answer``: the answer, which a second backend may finish; ``answer_writer`` and ``answer_buffer`` pass it
   on.

Imported by ``node``.
"""
