"""The latest events of this process, in memory, for the pages that show them (pure)."""

from __future__ import annotations

from collections import deque

MAX_EVENTS = 500
"""Events that are kept."""
MAX_BYTES = 256 * 1024
"""Characters that they have together at most."""


class RecentEvents:
    """Events as JSON texts, numbered from 1 on."""

    def __init__(self) -> None:
        self._texts: deque[str] = deque()
        self._size = 0
        self.last = 0
        """Number of the latest event."""

    def add(self, text: str) -> None:
        """Keep an event; the oldest ones go if there are too many."""
        self._texts.append(text)
        self._size += len(text)
        self.last += 1
        while len(self._texts) > MAX_EVENTS or self._size > MAX_BYTES:
            self._size -= len(self._texts.popleft())

    def get_since(self, number: int) -> tuple[int, list[str]]:
        """The number of the latest event, and those after ``number`` that are still here, the oldest first."""
        count = min(self.last - number, len(self._texts))
        return self.last, [self._texts[index] for index in range(len(self._texts) - count, len(self._texts))]


RECENT = RecentEvents()
"""Those of this process, which has one log."""
