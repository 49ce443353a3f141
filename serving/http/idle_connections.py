"""The connections to a server that wait for their next request. Pure."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar


class _Closable(Protocol):
    def is_usable(self) -> bool: ...


C = TypeVar("C", bound=_Closable)


class IdleConnections(Generic[C]):
    """The connections that wait for their next request, newest last: decides which to reuse and which to close.

    Servers close idle connections too (uvicorn, under vLLM, after 5 s), so none older than ``max_age`` seconds is
    reused, and the newest is preferred. Pure: what must be closed is returned, and closed by the caller.
    """

    def __init__(self, max_idle: int, max_age: float) -> None:
        self._max_idle = max_idle
        self._max_age = max_age
        self._idle: list[tuple[float, C]] = []

    def __len__(self) -> int:
        return len(self._idle)

    def take(self, now: float) -> tuple[C | None, list[C]]:
        """The connection to reuse, if there is one, and the connections found useless on the way."""
        useless: list[C] = []
        while self._idle:
            since, connection = self._idle.pop()
            if now - since <= self._max_age and connection.is_usable():
                return connection, useless
            useless.append(connection)
        return None, useless

    def put(self, connection: C, now: float) -> list[C]:
        """Keep ``connection`` for the next request; returns the connections that have to go."""
        self._idle.append((now, connection))
        useless = 0  # from the oldest on
        while useless < len(self._idle) and self._is_useless(useless, now):
            useless += 1
        gone = [connection for _, connection in self._idle[:useless]]
        del self._idle[:useless]
        return gone

    def clear(self) -> list[C]:
        """Give up all of them."""
        idle = [connection for _, connection in self._idle]
        self._idle = []
        return idle

    def _is_useless(self, place: int, now: float) -> bool:
        return len(self._idle) - place > self._max_idle or now - self._idle[place][0] > self._max_age
