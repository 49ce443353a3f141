"""Answers of one backend whose content has not begun, and until when it must.

A server may put a request into a queue of its own: then the request is silent, though the server is not broken. Its
metrics page says how many requests wait, but not which. So while some wait, and content comes in other answers, the
deadlines of all silent answers are extended, within a limit. A server that hangs produces content for nobody, whatever
its page says.
"""

from __future__ import annotations

from dataclasses import dataclass

import trio

MAX_QUEUED_S = 120.0
"""Longest extension, in seconds since the answer got its slot: as long as a payer waits for an answer in a queue."""
WORKING_S = 10.0
"""Seconds for which content in another answer shows that the server works."""


@dataclass(frozen=True, slots=True)
class _Wait:
    """The patience for one answer, and until when it may be put off."""

    patience_s: float
    latest: float


class SilentAnswers:
    """The answers under way without content, each as the scope that ends the wait for it."""

    def __init__(self) -> None:
        self._waits: dict[trio.CancelScope, _Wait] = {}

    def begin(self, scope: trio.CancelScope, patience_s: float, now: float) -> None:
        """A request has its slot: cancel ``scope`` if there is no content in ``patience_s``."""
        scope.deadline = now + patience_s
        self._waits[scope] = _Wait(patience_s, now + max(patience_s, MAX_QUEUED_S))

    def end(self, scope: trio.CancelScope) -> None:
        """The wait for content is over, if it has begun."""
        self._waits.pop(scope, None)

    def put_off(self, now: float, content_at: float) -> None:
        """Extend the deadlines: requests wait in the server, and its last content, in any answer, came at
        ``content_at``."""
        if now - content_at < WORKING_S:
            for scope, wait in self._waits.items():
                scope.deadline = max(scope.deadline, min(now + wait.patience_s, wait.latest))
