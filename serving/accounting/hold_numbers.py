"""The sequence numbers of a node's holds (pure): no two requests share a number, across restarts too.

The ledger accepts a number up to ``REPLAY_WINDOW_SIZE`` above the highest final one, so that holds may become final in
any order. A node uses half of that range. The other half lets a node that has just started skip the numbers of holds
that may still be under way. After an orderly shutdown the node knows which numbers have no hold, and uses these first:
each that leaves the replay window unused costs its deposit. After a crash it skips them.
"""

from __future__ import annotations

from collections.abc import Iterable

from chain.collections import BoundedDict
from chain.state.records import REPLAY_WINDOW_SIZE

AHEAD = REPLAY_WINDOW_SIZE // 2
"""Hold numbers above the highest final one that may be in use."""
RESERVE = 8
"""Hold numbers that each write to the disk reserves."""
REUSE_DISTANCE = 64
"""A returned number that is so far below the highest final one is used before any other.

Its draws have failed, so other numbers are better at first. But a number that leaves the window unused costs its
deposit.
"""
MAX_SET_ASIDE = 8
"""Returned numbers that are set aside while others are used: each keeps a deposit on the ledger."""


class TooManyPayments(Exception):
    """All hold numbers are in use; some will be free soon."""


class HoldNumbers:
    """Gives out numbers. ``top`` is always one more than the highest number that is final on the ledger."""

    def __init__(self, top: int, stored: int, set_aside: Iterable[int] = ()) -> None:
        """``stored`` is what :meth:`reserve` returned last, 0 if never.

        ``set_aside`` is what :meth:`find_unsigned` returned at the last orderly shutdown. It must be deleted from the
        disk before a hold is signed: otherwise a later run could sign under the same numbers.
        """
        self._reserved = max(top, stored)
        """No hold was ever signed under this number or a higher one."""
        self._next = self._signed = self._reserved
        self._limit = min(self._reserved + AHEAD, top + REPLAY_WINDOW_SIZE)
        self.taken: set[int] = set()
        """Numbers given out, under which no hold was signed yet."""
        self._returned: BoundedDict[int, None] = BoundedDict(REPLAY_WINDOW_SIZE)
        """Numbers that were given back, oldest first."""
        for seq in set_aside:
            if seq >= top - AHEAD:
                self._returned[seq] = None

    def peek(self, top: int) -> int:
        """The number that :meth:`take` would give out.

        Raises:
            TooManyPayments: all that may be used are in use.
        """
        reusable = [seq for seq in self._returned if seq >= top - AHEAD]
        lowest = min(reusable, default=top)
        if lowest < top - REUSE_DISTANCE or len(reusable) > MAX_SET_ASIDE:
            return lowest
        fresh = max(self._next, top)
        if fresh < max(self._limit, top + AHEAD):
            return fresh
        if not reusable:
            raise TooManyPayments(f"{AHEAD} payments are waiting to become final")
        return reusable[0]

    def take(self, top: int) -> int:
        """A number that no hold of this node has used. Give it back at the end of the request.

        Raises:
            TooManyPayments: all that may be used are in use.
        """
        seq = self.peek(top)
        self._returned.pop(seq, None)
        self._next = max(self._next, seq + 1)
        self.taken.add(seq)
        return seq

    def give_back(self, seq: int) -> None:
        """The request of ``seq`` is over. If no hold was signed under the number, another request may take it."""
        if seq not in self.taken:
            return
        self.taken.remove(seq)
        self._returned[seq] = None

    def reserve(self, seq: int) -> int | None:
        """A hold is about to be signed under ``seq``. Returns what must first be written to the disk, or None."""
        self.taken.discard(seq)
        self._signed = max(self._signed, seq + 1)
        if seq < self._reserved:
            return None
        self._reserved = seq + RESERVE
        return self._reserved

    def release_reserve(self) -> int:
        """No hold is signed any more. Returns the value to store, so that the next run skips no number."""
        self._reserved = self._signed
        return self._signed

    def find_unsigned(self) -> list[int]:
        """No hold is signed any more. Returns the unused numbers below the highest signed one, for the next run of the
        node."""
        return sorted(seq for seq in {*self._returned, *self.taken} if seq < self._signed)
