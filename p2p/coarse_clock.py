"""Wall time as others may see it. Pure.

A clock that others can read to the millisecond is a fingerprint: its deviation and its rate identify a machine, under
any key and behind any proxy. So a node tells times, and judges what is timely, by a coarse clock. It advances by
:data:`STEP_MS` at a time, at random moments. The moments follow from a secret, so that all parts of a node see the same
time. An observer learns the deviation to about a second, and the rate to about a millionth, within a month.

Source: T. Kohno, A. Broido and K. Claffy, "Remote physical device fingerprinting", 2005.
"""

from __future__ import annotations

from collections.abc import Callable

from chain.crypto import hash_bytes

STEP_MS = 300_000
"""Length of a step in ms."""
MAX_LAG_MS = 2 * STEP_MS
"""How far a coarse clock may be behind the wall time that it follows, in ms."""


class CoarseClock:
    """Coarse wall time of one node; ``get_time()`` is its wall time in ms."""

    def __init__(self, get_time: Callable[[], int], secret: bytes) -> None:
        self._get_time = get_time
        self._secret = secret

    def now(self) -> int:
        """Coarse wall time in ms: a multiple of :data:`STEP_MS`, less than :data:`MAX_LAG_MS` behind."""
        step, passed = divmod(self._get_time(), STEP_MS)
        delay = int.from_bytes(hash_bytes("coarse clock", self._secret, step.to_bytes(8))) % STEP_MS
        return (step - (passed < delay)) * STEP_MS
