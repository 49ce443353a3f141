"""The circuit breaker of a backend, or of a model of another node. Pure.

A backend or executor that fails repeatedly is asked last for a while, and then tried once.

A broken backend answers at once and so looks idle: by load alone it would get most of the requests. After
:data:`OPEN_AFTER` failures in a row the breaker is *open* for 5 seconds, and twice as long after each failed probe, up
to 30 (Nygard, "Release It!", 2007). Then one request is let through as a probe, and its outcome decides. An open
breaker puts a backend last; it forbids nothing, since a backend that may be broken is better than none.

A failure of which the request may be the cause is a *doubt*. The backend is checked then, and what comes of it counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

OPEN_AFTER = 2
"""Failures in a row after which a breaker opens."""
FIRST_OPEN_S = 5.0
"""Seconds for which it is open at first."""
MAX_OPEN_S = 30.0
"""Seconds for which it is open at most, and longest Retry-After that is respected."""
BUSY_WAIT_S = 1.0
"""Seconds for which a backend that is busy, and does not say for how long, is asked last."""


@dataclass(slots=True)
class CircuitBreaker:
    """The breaker of one backend, or of one executor for one model. Times are seconds of one monotonic clock."""

    failures: int = 0
    """In a row, since the last whole answer."""
    _open_s: float = 0.0
    _open_until: float = -math.inf
    _busy_until: float = -math.inf
    _is_probing: bool = False
    _is_doubted: bool = False
    _is_checked: bool = False
    """Whether a check of the doubt is under way."""

    @property
    def is_broken(self) -> bool:
        """Whether it has failed so often that its next answer is a probe."""
        return self.failures >= OPEN_AFTER

    def is_open(self, now: float) -> bool:
        """Whether the backend is asked last: it is broken, and its time for a probe has not come, or it is busy."""
        return now < self._busy_until or self.is_withdrawn(now)

    def is_withdrawn(self, now: float) -> bool:
        """Whether it is broken, and its time for a probe has not come: then it is not announced."""
        return self.is_broken and now < self._open_until

    def get_rest(self, now: float) -> float:
        """Seconds until it is asked in its turn again; 0: now."""
        until = max(self._busy_until, self._open_until if self.is_broken else -math.inf)
        return max(0.0, until - now)

    def begin(self, now: float) -> None:
        """A request is sent to it. While that is a probe, no other is."""
        if self.is_broken and not self.is_open(now):
            self._is_probing = True
            self._open_until = now + self._open_s

    def note_answer(self) -> None:
        """A whole answer came, or an error of which the request is the cause."""
        self.failures, self._open_s, self._busy_until, self._is_probing = 0, 0.0, -math.inf, False
        self._is_doubted = self._is_checked = False

    def note_failure(self, now: float) -> None:
        """It failed. Requests that were sent before it opened do not open it for longer when they fail too."""
        self.failures += 1
        if self.failures == OPEN_AFTER or self._is_probing:
            self._is_probing = False
            self._open_s = min(MAX_OPEN_S, max(FIRST_OPEN_S, 2 * self._open_s))
            self._open_until = now + self._open_s

    def note_doubt(self) -> None:
        """It answered with an error, for which the request may be to blame."""
        self._is_doubted = True

    def take_doubt(self) -> bool:
        """Whether a check is due. If so, it counts as under way until an answer or a failure is noted."""
        if not self._is_doubted or self._is_checked:
            return False
        self._is_doubted, self._is_checked = False, True
        return True

    def note_check_failed(self, now: float) -> None:
        """A check of it has failed, which opens it at once."""
        self._is_checked = False
        self.failures = max(self.failures, OPEN_AFTER - 1)
        self.note_failure(now)

    def note_busy(self, now: float, retry_after_s: float = 0.0) -> None:
        """It is busy, and asks to be tried again later (0: it names no time). This is no failure."""
        self._busy_until = now + min(retry_after_s or BUSY_WAIT_S, MAX_OPEN_S)
