"""Failover: what is done when a backend or an executor does not deliver.

:mod:`~serving.failover.rules` classifies failed tries, both of this node's backends and of other nodes.
:mod:`~serving.failover.local` tries the backends of this node one after the other, until content goes out. After that
:mod:`~serving.failover.continued_answer` gets the rest from another source.
"""
