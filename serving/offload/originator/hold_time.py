"""For how long a hold is good: as long as its answer may take, with a margin, and no longer. Pure.

An executor stops an answer while there is still time to capture what it has delivered. So a slow one that is honest
needs a hold that lasts as long as the longest answer that the request allows, the queue before it included. A hold that
lasts longer earns nobody anything: an executor that falls silent keeps the credits of its payer until the deadline.
"""

from __future__ import annotations

from serving.offload.settings import OriginatorSettings

HOLD_FACTOR = 2.0
"""A hold lasts so many times the predicted time of the longest answer."""
CAPTURE_S = 60.0
"""Added to that: executors stop this long before the deadline."""
LEDGER_SHARE = 0.9
"""Largest part of what the ledger allows: an executor some blocks behind would find a longer hold too long."""


def compute_hold_time(settings: OriginatorSettings, longest_s: float, max_hold_time_ms: int) -> int:
    """Chain time in ms for which a hold is to be good.

    ``longest_s`` is the predicted time of the longest answer, and ``max_hold_time_ms`` what the ledger allows.
    """
    needed_ms = 1000 * (HOLD_FACTOR * longest_s + CAPTURE_S)
    most_ms = min(settings.max_hold_time_ms, LEDGER_SHARE * max_hold_time_ms)
    return int(min(max(settings.hold_time_ms, needed_ms), most_ms))
