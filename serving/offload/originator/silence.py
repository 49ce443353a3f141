"""Which executors work and which have fallen silent, judged by this node's own streams. Pure, in seconds.

An executor that stalls can still claim that it works, or that a request is queued: claims cost nothing, but content
does. A stream is *overdue* if the executor says that it is not queued, and either its first content has not come when
expected, or the next has not come for :data:`PAUSE_S`. An executor is *silent* if a stream is overdue and no other
stream of this node has got content from it for as long. It is asked last for a while, and requests queued there need
not wait. Requests queued at an executor that is seen to work wait longer.
"""

from __future__ import annotations

import math

from chain.collections import BoundedDict

PAUSE_S = 8.0
"""Seconds without content in the middle of a stream after which it is overdue, unless another got some in that time."""
SILENT_S = 15.0
"""Seconds for which an executor counts as silent. Then it is asked again; one overdue stream makes it silent again."""
MAX_EXECUTORS = 4096
"""Executors and models that are kept; beyond it, the one that changed longest ago is forgotten."""


class Silences:
    """What is seen of all executors, by model."""

    def __init__(self) -> None:
        self._content_at: BoundedDict[tuple[bytes, str], float] = BoundedDict(MAX_EXECUTORS)
        self._overdue_at: BoundedDict[tuple[bytes, str], float] = BoundedDict(MAX_EXECUTORS)
        """When a stream was last overdue, for executors from which no content has come since."""

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
