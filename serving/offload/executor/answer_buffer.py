"""The buffer between a backend and an originator: the part of an answer that is written and not sent yet."""

from __future__ import annotations

import math

import trio

from serving.backends.backend import BackendError
from serving.openai.answers import Answer

DUE_SHARE = 0.2
"""Part of an interval around its beginning in which gathered pieces are sent at once. A busy node that is later sends
them together with more."""


class BufferFull(Exception):
    """The buffer has no room, and nothing is taken out of it."""


class AnswerBuffer:
    """Takes the head and the pieces of one answer, and gives the pieces out in fewer and larger ones.

    A message between nodes costs about the same whatever its length, and a token is a few dozen bytes. So the first
    piece goes at once, and later ones at the next multiple of ``interval`` seconds of trio's clock, or once there are
    ``size`` bytes. The buffers of all answers give out at the same moments, so that their messages share a write on the
    connection. Once it holds ``limit`` bytes, :meth:`put` waits for room, or fails if nobody reads.
    """

    def __init__(self, limit: int, interval: float, size: int) -> None:
        self._limit = limit
        self.interval = interval
        self._size = size
        self._head: Answer | None = None
        self._data = bytearray()
        self._is_closed = False
        self._failure: str | None = None
        """Why the answer broke off. It is a text: a stored exception would keep alive its frames and their
        variables."""
        self.is_gathered = False
        """Whether the pieces put in were already gathered until a multiple of the interval. If that is now, they go at
        once."""
        self._is_first = True
        self._is_read = True
        self._least = 1
        """Bytes for which the reader waits: fewer do not wake it."""
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def is_read(self) -> bool:
        """Whether somebody reads, now or soon."""
        return self._is_read

    @is_read.setter
    def is_read(self, is_read: bool) -> None:
        self._is_read = is_read
        self._changed.unpark_all()

    def begin(self, head: Answer) -> None:
        """The answer has begun; its body comes by :meth:`put`."""
        self._head = head
        self._changed.unpark_all()

    async def put(self, piece: bytes) -> None:
        """Add the next bytes, once there is room.

        Raises:
            BufferFull: there is none, and nothing is taken out.
        """
        while len(self._data) >= self._limit:
            if not self._is_read:
                raise BufferFull
            await self._changed.park()
        self._data += piece
        if len(self._data) >= self._least:
            self._changed.unpark_all()

    def close(self, failure: str | None = None) -> None:
        """Nothing more comes; ``failure`` is why, if the answer broke off or never began."""
        self._is_closed = True
        self._failure = failure
        self._changed.unpark_all()

    async def get_head(self) -> Answer:
        """The head of the answer, once it has begun.

        Raises:
            BackendError: it did not.
        """
        while self._head is None:
            if self._failure is not None:
                raise BackendError(self._failure)
            await self._changed.park()
        return self._head

    async def get(self) -> bytes:
        """The next bytes, joined; none at the end.

        Raises:
            BackendError: the answer broke off after what was given out.
        """
        await self._wait(1)
        now, interval = trio.current_time(), self.interval
        is_due = self.is_gathered and abs(math.remainder(now, interval)) < interval * DUE_SHARE
        if not self._is_first and not is_due:
            with trio.move_on_at((math.floor(now / interval) + 1) * interval):
                await self._wait(self._size)
        self._is_first = False
        piece = bytes(self._data)
        self._data.clear()
        self._changed.unpark_all()
        if not piece and self._failure is not None:
            raise BackendError(self._failure)
        return piece

    async def _wait(self, size: int) -> None:
        """Wait for ``size`` bytes, or the end."""
        self._least = min(size, self._limit)
        while len(self._data) < self._least and not self._is_closed:
            await self._changed.park()
