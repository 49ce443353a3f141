"""Which executors work and which have fallen silent, by what this node sees of its own streams. Pure, in seconds.

An executor that stalls may go on to say that it works, or that a request is queued: that costs nothing. Content does. A
stream is *overdue* when its first content did not come by the time that it was expected, while the executor said that
it is not queued and its hold was final. An executor is *silent* after :data:`SILENT_AFTER` overdue streams in a row
with no content from it in between, in any stream of this node. It is asked last for a while, and what is queued there
need not be waited for. What is queued at one that is seen to work is waited for longer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from chain.collections import BoundedDict

SILENT_AFTER = 2
"""Overdue streams in a row that make an executor silent: about one honest first token in a hundred is overdue."""
SILENT_S = 15.0
"""Seconds for which one is silent after the last of them. Then it is asked again, and one more makes it so again."""
MAX_SILENCES = 4096
"""Executors and models of which something is kept; beyond it, the one that changed longest ago is forgotten."""


@dataclass(frozen=True, slots=True)
class _Overdue:
    """Overdue streams since there was content, and when the last of them was."""

    streams: int
    noted_at: float


class Silences:
    """What is seen of all executors, by model."""

    def __init__(self) -> None:
        self._overdue: BoundedDict[tuple[bytes, str], _Overdue] = BoundedDict(MAX_SILENCES)
        self._content_at: BoundedDict[tuple[bytes, str], float] = BoundedDict(MAX_SILENCES)

    def __len__(self) -> int:
        """Executors and models of which overdue streams are kept."""
        return len(self._overdue)

    def note_content(self, executor: bytes, model: str, now: float) -> None:
        """Content has come, in any stream or as a whole answer."""
        self._overdue.pop((executor, model), None)
        self._content_at[executor, model] = now

    def get_content_at(self, executor: bytes, model: str) -> float:
        """When content came last; minus infinity if none has."""
        return self._content_at.get((executor, model), -math.inf)

    def note_overdue(self, executor: bytes, model: str, now: float) -> None:
        """A stream has become overdue."""
        found = self._overdue.get((executor, model))
        self._overdue[executor, model] = _Overdue(1 if found is None else found.streams + 1, now)

    def is_silent(self, executor: bytes, model: str, now: float) -> bool:
        """Whether one has fallen silent."""
        found = self._overdue.get((executor, model))
        return found is not None and found.streams >= SILENT_AFTER and now < found.noted_at + SILENT_S
