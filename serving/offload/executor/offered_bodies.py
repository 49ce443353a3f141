"""The bodies of offers that are on their way or being read: how many bytes arrived, and which are dropped.

Bytes that have arrived count, not the announced size. Beyond a bound the body that began first is dropped: an honest
one arrives within moments. Each payer has a share of the room, and a part of the room is reserved for payers that have
paid.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

PAYER_SHARE = 4
"""One part in so many of the room is the most for the bodies of one payer."""
PAID_SHARE = 4
"""One part in so many of the room is reserved for payers that have paid this node."""


@dataclass(eq=False, slots=True)
class OfferedBody:
    """One body; ``scope`` is that of the task which receives and reads it."""

    payer: bytes
    has_paid: bool
    size: int = 0
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    is_given_up: bool = False


class OfferedBodies:
    """All such bodies of an executor, of at most ``limit`` bytes together."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bodies: dict[OfferedBody, None] = {}  # in the order in which they began
        self.size = 0
        """Bytes of all of them."""

    @contextmanager
    def receive(self, payer: bytes, has_paid: bool) -> Iterator[OfferedBody]:
        """Count a body within the context, which is cancelled if the body is dropped."""
        body = OfferedBody(payer, has_paid)
        self._bodies[body] = None
        try:
            with body.scope:
                yield body
        finally:
            self._remove(body)

    def grow(self, body: OfferedBody, size: int) -> None:
        """Note ``size`` more bytes of ``body``."""
        body.size += size
        self.size += size
        while (excess := self._find_excess(body.payer)) is not None:
            self._remove(excess)
            excess.is_given_up = True
            excess.scope.cancel()

    def _find_excess(self, payer: bytes) -> OfferedBody | None:
        """The body that has to give way now; None if all have room."""
        share, rest = self._limit // PAYER_SHARE, self._limit - self._limit // PAID_SHARE
        if self.size <= min(share, rest):
            return None
        of_payer = [body for body in self._bodies if body.payer == payer]
        unpaid = [body for body in self._bodies if not body.has_paid]
        for bodies, limit in ((of_payer, share), (unpaid, rest), (list(self._bodies), self._limit)):
            if sum(body.size for body in bodies) > limit:
                return bodies[0]
        return None

    def _remove(self, body: OfferedBody) -> None:
        if body in self._bodies:
            del self._bodies[body]
            self.size -= body.size
