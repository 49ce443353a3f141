"""Run a node that soon tries again to punch a hole in vain: the machine of a test may stand still for one punch.

``python -m tests.nat.tenacious run …`` is ``wwwserve run …``, but for the time between two punches.
"""

from __future__ import annotations

from node import main
from p2p.backoff import Backoff
from p2p.nat import hole_punching

AFTER_FAILURE = Backoff(10.0, 40.0)
"""Delays before a punch that failed is tried again."""

if __name__ == "__main__":
    hole_punching.FAILURE_BACKOFF = AFTER_FAILURE
    main()
