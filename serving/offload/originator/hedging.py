"""Hedging: when a second executor is asked for an answer whose first content is late. Pure.

A hedged request (Dean and Barroso, "The Tail at Scale", 2013) is asked of a second executor while the first may still
answer. The first content decides: its executor gives the answer, and the other is told to stop. Nothing is mixed, and
there is one receipt.

Hedges cost other nodes unpaid work, and this node a second hold. So they are few: at most :data:`MAX_PERCENT` of the
attempts, in each :data:`WINDOW` of them and from the first one on.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

MAX_PERCENT = 5
"""Most hedges, in percent of all attempts."""
WINDOW = 200
"""Attempts in a row in which they are counted."""


class HedgeBudget:
    """How many hedges there may be.

    Of the first n attempts, for every n, and of any :data:`WINDOW` attempts in a row no more than
    :data:`MAX_PERCENT` percent are hedges.
    """

    def __init__(self) -> None:
        self._attempts: deque[bool] = deque(maxlen=WINDOW - 1)
        """Whether each was a hedge, for the attempts that share a window with the next one."""
        self._hedges = 0
        """Of these."""

    @property
    def has_room(self) -> bool:
        """Whether the next attempt may be a hedge."""
        return 100 * (self._hedges + 1) <= MAX_PERCENT * (len(self._attempts) + 1)

    def note_attempt(self, *, is_hedge: bool) -> None:
        """An executor is asked."""
        if len(self._attempts) == WINDOW - 1:
            self._hedges -= self._attempts[0]
        self._attempts.append(is_hedge)
        self._hedges += is_hedge


@dataclass(slots=True)
class Race:
    """The concurrent attempts at one request: the first with content is the answer."""

    is_hedged: bool = False
    """Whether a second executor is asked. Then waiting for the first beyond its bound costs nothing."""
    _winner: bytes | None = None

    def claim(self, hold_id: bytes) -> bool:
        """The attempt that is paid by a hold has content. Returns whether it is the first: no other gets a receipt."""
        if self._winner is None:
            self._winner = hold_id
        return self._winner == hold_id


@dataclass(slots=True)
class HedgeCounts:
    """Hedges of this node, by what came of them."""

    won: int = 0
    """They gave the answer."""
    lost: int = 0
    """The executor that was late did after all."""
    failed: int = 0
    """Neither did."""
