"""How fast a chain grows, counted from its final blocks: times between them, and views without a block (pure)."""

from __future__ import annotations

from chain.histogram import Histogram
from chain.transition.epochs import Epoch
from chain.types.blocks import Block, Header

INTERVAL_BOUNDS_S = (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 8, 12, 20, 40, 80)
"""Bounds of the histogram of times between blocks."""


class Pace:
    """Counts from the block after ``header`` on. ``me`` is the public key of this validator, empty for a follower."""

    def __init__(self, header: Header, me: bytes) -> None:
        self.intervals = Histogram(INTERVAL_BOUNDS_S)
        """Seconds between the timestamps of each block and of the one before it."""
        self.skipped_views = 0
        """Views between two blocks of an epoch that brought none: their leaders were away or late."""
        self.missed_leads = 0
        """Those of them that this validator led, as far as the blocks show them."""
        self._last = header
        self._me = me

    def note(self, block: Block, epoch: Epoch) -> None:
        """Count the block that comes next, which is of ``epoch``."""
        header, last = block.header, self._last
        self._last = header
        self.intervals.observe((header.timestamp - last.timestamp) / 1000)
        before = last.view if last.epoch == header.epoch else 0
        self.skipped_views += max(0, header.view - before - 1)
        if epoch.number == header.epoch and self._me in epoch.validators:
            shown = (skipped.view for skipped in block.body.nullifications)
            self.missed_leads += sum(epoch.compute_leader(view) == self._me for view in shown)

    def go_on_from(self, header: Header) -> None:
        """The block that comes next follows another than the last one."""
        self._last = header
