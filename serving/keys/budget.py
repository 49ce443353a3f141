"""A budget that is never overrun: not by requests at a time, nor by a crash at any moment. Pure.

Each request reserves the most that it can cost before it begins, and is charged what it did cost at its end. The disk
always says at least as much as was charged and is reserved, because what the requests under way have cost is not known
after a crash. It says a little more, so that not every request has to wait for a write. So the owner of a key can lose
that little in a crash; a budget is never exceeded.

Amounts are in micro-credits.
"""

from __future__ import annotations

HEADROOM_REQUESTS = 16
"""Requests, as large as the one that makes a write necessary, that the write makes room for."""
HEADROOM_SHARE = 64
"""Divisor of the budget: a write makes room for so much of it at most."""


class KeyBudget:
    """What may be spent in all (``limit``), and what was. ``stored`` is what the disk says."""

    def __init__(self, limit: int, stored: int) -> None:
        self.limit = limit
        self.spent = stored
        """Charged for requests that have ended; after a crash, at most that."""
        self.reserved = 0
        """For requests under way."""
        self._safe = stored
        """The least that the disk may say at this moment."""
        self._writing = stored

    @property
    def left(self) -> int:
        """What may still be reserved."""
        return max(0, self.limit - self.spent - self.reserved)

    @property
    def is_covered(self) -> bool:
        """Whether the disk says enough for all that is reserved. No request begins before."""
        return self.spent + self.reserved <= self._safe

    @property
    def is_exact(self) -> bool:
        """Whether the disk says just what was spent and is reserved."""
        return self.spent + self.reserved == self._safe

    def reserve(self, amount: int) -> bool:
        """Reserve ``amount`` for a request, if that much is left."""
        if amount > self.left:
            return False
        self.reserved += amount
        return True

    def settle(self, amount: int, cost: int) -> None:
        """A request is over for which ``amount`` was reserved and that cost ``cost``, at most that."""
        self.reserved -= amount
        self.spent += min(cost, amount)

    def begin_write(self, ahead: int = 0) -> int:
        """What to write to the disk, with room for requests that cost ``ahead`` each. One write at a time."""
        room = min(HEADROOM_REQUESTS * ahead, self.limit // HEADROOM_SHARE, self.left)
        self._writing = self.spent + self.reserved + room
        self._safe = min(self._safe, self._writing)  # until it is done, the disk may say either
        return self._writing

    def end_write(self) -> None:
        """The write has reached the disk."""
        self._safe = self._writing
