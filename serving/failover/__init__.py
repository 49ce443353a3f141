"""Failover: what is done when a backend or an executor does not deliver.

:mod:`~serving.failover.rules` says of a failed try what it means, for backends of this node and for other nodes alike.
:mod:`~serving.failover.local` tries the backends of this node one after the other, as long as no content has gone out.
After that :mod:`~serving.failover.continued_answer` has another give the rest.
"""
