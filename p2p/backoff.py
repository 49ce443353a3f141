"""Exponential back-off with jitter. Pure: the caller keeps the number of failures and supplies the chance."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

_MAX_DOUBLINGS = 64
"""Keeps the power within a float."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """A delay that begins at ``first_s`` seconds and doubles with every failure, up to ``max_s``.

    ``jitter`` is the range of the factor by which each delay is multiplied, so that nodes do not retry in step.
    """

    first_s: float
    max_s: float
    jitter: tuple[float, float] = (1.0, 1.0)

    def get_delay(self, failures: int, random: Random | None = None) -> float:
        """Seconds to wait after one more failure, when there were ``failures`` before; no jitter without ``random``."""
        delay = min(self.first_s * 2.0 ** min(failures, _MAX_DOUBLINGS), self.max_s)
        return delay if random is None else delay * random.uniform(*self.jitter)
