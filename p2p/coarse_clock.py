"""Wall time as others may see it. Pure.

A clock that others can read to the millisecond is a fingerprint: by its deviation and its rate a machine is known
again, under whatever key and behind whatever proxy. So what a node says about time, and what it takes for timely,
follows a coarse clock. This goes on by :data:`STEP_MS` at a time, each time at a random moment. The moments follow from
a secret, so that all parts of a node see the same time. Who watches it for a month learns the deviation to about a
second, and the rate to about a millionth.

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
