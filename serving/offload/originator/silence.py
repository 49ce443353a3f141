"""Which executors work and which have fallen silent, by what this node sees of its own streams. Pure, in seconds.

An executor that stalls may go on to say that it works, or that a request is queued: that costs nothing. Content does. A
stream is *overdue* if its content does not come though the executor says that it is not queued: its first content by
the time that it was expected, or the next for :data:`PAUSE_S`. An executor is *silent* once a stream is overdue and no
content has come from it for as long in any other stream of this node. It is asked last for a while, and what is queued
there need not be waited for. What is queued at one that is seen to work is waited for longer.
"""

from __future__ import annotations

import math

from chain.collections import BoundedDict

PAUSE_S = 8.0
"""Seconds in the middle of a stream after which it is overdue, and in which another shows that its executor works."""
SILENT_S = 15.0
"""Seconds for which an executor is silent. Then it is asked again, and one overdue stream makes it silent again."""
MAX_EXECUTORS = 4096
"""Executors and models that are kept; beyond it, the one that changed longest ago is forgotten."""


class Silences:
    """What is seen of all executors, by model."""

    def __init__(self) -> None:
        self._content_at: BoundedDict[tuple[bytes, str], float] = BoundedDict(MAX_EXECUTORS)
        self._overdue_at: BoundedDict[tuple[bytes, str], float] = BoundedDict(MAX_EXECUTORS)
        """When a stream was overdue last, where no content has come since."""

    def __len__(self) -> int:
        """Executors and models that are kept."""
        return max(len(self._content_at), len(self._overdue_at))

    def note_content(self, executor: bytes, model: str, now: float) -> None:
        """Content has come, in any stream or as a whole answer."""
        self._content_at[executor, model] = now
        self._overdue_at.pop((executor, model), None)

    def note_overdue(self, executor: bytes, model: str, now: float) -> None:
        """A stream is overdue."""
        self._overdue_at[executor, model] = now

    def get_content_at(self, executor: bytes, model: str) -> float:
        """When content came last; minus infinity if none has."""
        return self._content_at.get((executor, model), -math.inf)

    def is_silent(self, executor: bytes, model: str, now: float) -> bool:
        """Whether one has fallen silent."""
        overdue_at = self._overdue_at.get((executor, model))
        if overdue_at is None:
            return False
        since = max(overdue_at, self.get_content_at(executor, model) + PAUSE_S)
        return since <= now < since + SILENT_S
