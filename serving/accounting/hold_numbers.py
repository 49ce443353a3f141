"""The sequence numbers of a node's holds (pure): no two requests share a number, across restarts too.

The ledger takes a number that is at most ``REPLAY_WINDOW_SIZE`` above the highest final one, so that holds may become
final in any order. A node uses half of that range. The other half lets a node that has just started skip the numbers
of holds that may still be on their way.
"""

from __future__ import annotations

from chain.collections import BoundedDict
from chain.state.records import REPLAY_WINDOW_SIZE

AHEAD = REPLAY_WINDOW_SIZE // 2
"""Hold numbers above the highest final one that may be in use."""
RESERVE = 8
"""Hold numbers that each write to the disk reserves."""


class TooManyPayments(Exception):
    """All hold numbers are in use; some will be free soon."""


class HoldNumbers:
    """Gives out numbers. ``top`` is always one more than the highest number that is final on the ledger."""

    def __init__(self, top: int, stored: int) -> None:
        """``stored`` is what :meth:`reserve` returned last, 0 if never."""
        self._reserved = max(top, stored)
        """No hold was ever signed under this number or a higher one."""
        self._next = self._reserved
        self._limit = min(self._reserved + AHEAD, top + REPLAY_WINDOW_SIZE)
        self._taken: set[int] = set()
        """Numbers given out, under which no hold was signed yet."""
        self._returned: BoundedDict[int, None] = BoundedDict(REPLAY_WINDOW_SIZE)
        """Those that were given back, oldest first."""

    def peek(self, top: int) -> int:
        """The number that :meth:`take` would give out.

        Raises:
            TooManyPayments: all that may be used are in use.
        """
        fresh = max(self._next, top)
        if fresh < max(self._limit, top + AHEAD):
            return fresh
        reusable = next((seq for seq in self._returned if seq >= top - AHEAD), None)
        if reusable is None:
            raise TooManyPayments(f"{AHEAD} payments are waiting to become final")
        return reusable

    def take(self, top: int) -> int:
        """A number that no hold of this node has used. Give it back at the end of the request.

        Raises:
            TooManyPayments: all that may be used are in use.
        """
        seq = self.peek(top)
        self._returned.pop(seq, None)
        self._next = max(self._next, seq + 1)
        self._taken.add(seq)
        return seq

    def give_back(self, seq: int) -> None:
        """The request of ``seq`` is over. If no hold was signed under the number, another request may take it."""
        if seq not in self._taken:
            return
        self._taken.remove(seq)
        self._returned[seq] = None

    def reserve(self, seq: int) -> int | None:
        """A hold is about to be signed under ``seq``: returns what must be on the disk before, or None."""
        self._taken.discard(seq)
        if seq < self._reserved:
            return None
        self._reserved = seq + RESERVE
        return self._reserved
