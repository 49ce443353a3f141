"""An estimate of the network's size that invented peers cannot inflate. Pure.

Peers that this node has dialled (or that have stake) count in full. Peers that it knows from others only count by the
share of first dials that were answered lately.
"""

from __future__ import annotations

import math

from p2p.discovery.dial_scheduler import SMALL_NETWORK
from p2p.peers.table import PeerTable

ANSWER_SAMPLES = 16
"""First dials over which the share of answers is averaged."""
ESTIMATE_INTERVAL_S = 5.0
"""Seconds for which an estimate of a large network is kept."""


class SizeEstimate:
    """How many peers there are. Times are seconds of one monotonic clock."""

    def __init__(self, table: PeerTable) -> None:
        self._table = table
        self._answered = 1.0
        self._size = 0.0
        self._valid_until = -math.inf

    def note_first_dial(self, is_answered: bool) -> None:
        """Take in how the first dial of an unverified peer went."""
        self._answered += (is_answered - self._answered) / ANSWER_SAMPLES

    def get(self, now: float) -> float:
        """The estimated number of other peers."""
        if now >= self._valid_until or len(self._table) <= SMALL_NETWORK:
            unverified = [known for known in self._table.present() if not self._table.is_verified(known.peer)]
            verified = len(self._table) - len(unverified)
            dialable = sum(bool(self._table.get_dialable(known)) for known in unverified)
            self._size, self._valid_until = verified + self._answered * dialable, now + ESTIMATE_INTERVAL_S
        return self._size
