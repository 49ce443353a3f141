"""How long agreement takes, as one node measures it: views, and quorums for blocks that it voted for (pure).

Times are seconds of a monotonic clock, which the caller reads.
"""

from __future__ import annotations

from chain.collections import BoundedDict
from chain.histogram import Histogram

VIEW_BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 8, 15, 30, 60)
"""Bounds of the histogram of times of views."""
QUORUM_BOUNDS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30)
"""Bounds of the histogram of times to a finalization."""
MAX_OPEN_VOTES = 64
"""Most blocks that are not final for which the time of this node's vote is kept. Some never become final."""


class AgreementTimes:
    """Counts of one node. A *view* is named by epoch and number."""

    def __init__(self) -> None:
        self.views = Histogram(VIEW_BOUNDS_S)
        """From the moment at which a view had something to agree about to its end."""
        self.quorums = Histogram(QUORUM_BOUNDS_S)
        """From this node's first vote for a block to the finalization of it or of a descendant, which take two quorums
        of votes."""
        self._busy: tuple[tuple[int, int], float] | None = None
        self._voted: BoundedDict[bytes, float] = BoundedDict(MAX_OPEN_VOTES)

    def note_busy(self, view: tuple[int, int], now: float) -> None:
        """There is something to agree about in ``view``, which this node is in."""
        self.note_view(view, now)
        if self._busy is None:
            self._busy = view, now

    def note_idle(self) -> None:
        """There is nothing to agree about any more; the time of this view says nothing."""
        self._busy = None

    def note_view(self, view: tuple[int, int], now: float) -> None:
        """This node is in ``view``: one before it has ended."""
        if self._busy is not None and self._busy[0] != view:
            self.views.observe(now - self._busy[1])
            self._busy = None

    def note_vote(self, block_id: bytes, now: float) -> None:
        """This node votes for a block, for the first time or again."""
        self._voted.setdefault(block_id, now)

    def note_final(self, block_id: bytes, now: float) -> None:
        """The finalization of a block is here."""
        voted = self._voted.pop(block_id, None)
        if voted is not None:
            self.quorums.observe(now - voted)
