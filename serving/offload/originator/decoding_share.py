"""The share of its time for which a payer decodes the answers of one executor (pure). Times are in seconds.

An executor may send answers of maximal length, made of events that are slow to decode. One that delivers text takes far
less than its share, however fast it is. Beyond the share the payer delays reading, so that the executor waits.
"""

from __future__ import annotations

from chain.collections import BoundedDict
from p2p.limits.rate_limit import Bucket

DECODING_SHARE = 0.1
"""Of one processor, for the answers of one executor together."""
DECODING_BURST_S = 0.1
"""Decoding time that an executor may use at once."""
MAX_EXECUTORS = 4096
"""Executors that are remembered, those of the latest answers."""


class DecodingShare:
    """How long to wait before more of an executor's answers is read."""

    def __init__(self) -> None:
        self._executors: BoundedDict[bytes, Bucket] = BoundedDict(MAX_EXECUTORS)

    def charge(self, executor: bytes, used: float, now: float) -> float:
        """Account for ``used`` seconds of decoding; returns the seconds to wait before the next."""
        known = self._executors.get(executor)
        bucket = self._executors[executor] = known or Bucket(DECODING_BURST_S, now, DECODING_BURST_S)
        bucket.fill(now, DECODING_SHARE)
        bucket.level -= used
        return max(0.0, -bucket.level / DECODING_SHARE)
