"""How many offers an executor looks at, a second (pure).

To decline any offer costs some milliseconds. So a payer's rate grows with its allowance, which grows with its payments.
All payers that have paid nothing share a part of a processor. Offers beyond the rate are not read. A payer far beyond
it is blamed: an honest one with many users may exceed its rate at first, but never by so much.
"""

from __future__ import annotations

import math
from enum import Enum

from p2p.limits.rate_limit import Limiter, Rate
from serving.accounting.payment_history import FIRST_ALLOWANCE, MAX_ALLOWANCE, PaymentHistory

OFFERS_PER_ALLOWANCE = 4
"""Offers a second of a payer, for each offer that it may have unpaid."""
STRANGERS_RATE = Rate(items=64.0, size=math.inf, burst=1.0)
"""Offers a second of all payers together that still have their initial allowance."""
BURST_S = 2.0
"""Seconds of offers that a payer may make at once."""
BLAME_FACTOR = 4
"""Multiple of its rate above which a payer is blamed."""


class Verdict(Enum):
    """What to do with an offer."""

    ADMIT = "admit"
    REFUSE = "refuse"
    """Do not read it."""
    BLAME = "blame"
    """Do not read it: the payer has made far more than an honest one does."""


class OfferRates:
    """Counts the offers of each payer, and of all strangers: payers that have paid nothing."""

    def __init__(self, history: PaymentHistory) -> None:
        self._history = history
        highest = float(OFFERS_PER_ALLOWANCE * MAX_ALLOWANCE)
        self._payers = Limiter(Rate(highest, math.inf, BURST_S))
        self._blameless = Limiter(Rate(BLAME_FACTOR * highest, math.inf, BURST_S))
        self._strangers = Limiter(STRANGERS_RATE, STRANGERS_RATE)

    def judge(self, payer: bytes, now: float) -> Verdict:
        """Whether to look at one more offer of ``payer``."""
        allowance = max(1, self._history.get_allowance(payer))
        cost = MAX_ALLOWANCE // allowance  # in offers of the payer with the highest rate
        if not self._blameless.admit(payer, 0, now, cost):
            return Verdict.BLAME
        if not self._payers.admit(payer, 0, now, cost):
            return Verdict.REFUSE
        if allowance <= FIRST_ALLOWANCE and not self._strangers.admit(payer, 0, now):
            return Verdict.REFUSE
        return Verdict.ADMIT
