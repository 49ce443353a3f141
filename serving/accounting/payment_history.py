"""What an executor remembers of each payer: what it has paid, and what it left unpaid (pure).

An allowance bounds the offers of a payer that are accepted and not paid yet. Like the congestion window of TCP (RFC
5681, section 3.1), it grows by one with each payment and is halved by an offer that is left unpaid. Further unpaid
offers that were under way at that time may have the same cause, such as a node that was suspended for a moment. They
halve the allowance again only when their number reaches the new allowance.

The history is kept in memory only: after a restart every payer begins anew.
"""

from __future__ import annotations

from dataclasses import dataclass

from chain.collections import BoundedDict

MAX_PAYERS = 4096
"""Payers that are remembered, those of the latest events."""
FIRST_ALLOWANCE = 2
"""Offers of a new payer that may be unpaid at a time."""
MAX_ALLOWANCE = 64
"""Offers of any payer that may be unpaid at a time."""
FIRST_REFUNDS = 2
"""Holds of a new payer that are refunded although this node did not fail; one more with each payment."""
FIRST_SUSPENSION_S = 60.0
"""Seconds for which the offers of a payer are declined after its first fault."""
LEFT_WORK_S = 60.0
"""Seconds of work, for requests that a payer left before anything came, that count as one unpaid offer."""
MAX_SUSPENSION_S = 3600.0
"""Longest suspension; each further fault doubles it. Earlier faults are forgotten when it has been over for as long."""


@dataclass(slots=True)
class PayerRecord:
    """One payer. ``paid`` is in micro-credits, times in seconds of the node's monotonic clock."""

    paid: int = 0
    allowance: int = FIRST_ALLOWANCE
    refunds: int = FIRST_REFUNDS
    halved_at: float = float("-inf")
    """When the allowance was halved last."""
    unpaid: int = 0
    """Further unpaid offers that were under way at that time."""
    faults: int = 0
    """Holds that could not become final, and allowances that unpaid offers have used up."""
    suspended_until: float = float("-inf")
    left_work_s: float = 0.0
    """Work for requests that were left, not counted as an unpaid offer yet."""


class PaymentHistory:
    """The payers of one executor."""

    def __init__(self) -> None:
        self._records: BoundedDict[bytes, PayerRecord] = BoundedDict(MAX_PAYERS)

    def get_paid(self, payer: bytes) -> int:
        """Micro-credits that ``payer`` has paid, with receipts, since its last fault."""
        record = self._records.get(payer)
        return 0 if record is None else record.paid

    def get_allowance(self, payer: bytes) -> int:
        """Offers of ``payer`` that may be unpaid at a time."""
        record = self._records.get(payer)
        return FIRST_ALLOWANCE if record is None else record.allowance

    def get_suspension(self, payer: bytes, now: float) -> float:
        """Seconds for which offers of ``payer`` are declined yet."""
        record = self._records.get(payer)
        return 0.0 if record is None else max(0.0, record.suspended_until - now)

    def note_payment(self, payer: bytes, amount: int) -> None:
        """A capture with a receipt of ``payer`` is final."""
        record = self._touch(payer)
        record.paid += amount
        record.allowance = min(MAX_ALLOWANCE, record.allowance + 1)
        record.refunds = min(MAX_ALLOWANCE, record.refunds + 1)

    def take_refund(self, payer: bytes) -> bool:
        """Whether a hold of ``payer`` may be refunded at this node's cost. If so, the refund is counted."""
        record = self._touch(payer)
        if not record.refunds:
            return False
        record.refunds -= 1
        return True

    def note_unpaid(self, payer: bytes, now: float, accepted_at: float | None = None) -> None:
        """``payer`` sent no valid payment for an offer that was accepted at ``accepted_at`` (None: now)."""
        record = self._touch(payer)
        if accepted_at is not None and accepted_at < record.halved_at:
            record.unpaid += 1
            if record.unpaid < record.allowance:
                return
        record.allowance, record.halved_at, record.unpaid = record.allowance // 2, now, 0
        if not record.allowance:
            self.note_fault(payer, now)

    def note_left(self, payer: bytes, work_s: float, now: float) -> None:
        """``payer`` left a request before anything came of the answer, for which a backend had worked ``work_s``.

        That happens to honest users too, but seldom after a long time.
        """
        record = self._touch(payer)
        record.left_work_s += work_s
        while record.left_work_s >= LEFT_WORK_S:
            record.left_work_s -= LEFT_WORK_S
            self.note_unpaid(payer, now)

    def note_fault(self, payer: bytes, now: float) -> None:
        """A hold that ``payer`` signed cannot become final."""
        record = self._touch(payer)
        if now - record.suspended_until > MAX_SUSPENSION_S:
            record.faults = 0
        suspension = min(MAX_SUSPENSION_S, FIRST_SUSPENSION_S * 2.0**record.faults)
        record.paid, record.allowance, record.refunds = 0, FIRST_ALLOWANCE, 0
        record.faults += 1
        record.suspended_until = max(record.suspended_until, now + suspension)

    def _touch(self, payer: bytes) -> PayerRecord:
        """The record of ``payer``, as the one that is forgotten last."""
        record = self._records[payer] = self._records.get(payer) or PayerRecord()
        return record
