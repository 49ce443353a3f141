"""What an executor remembers of each payer: what it has paid, and holds that never became final (pure).

It is kept in memory alone: after a restart every payer begins anew.
"""

from __future__ import annotations

from dataclasses import dataclass

from chain.collections import BoundedDict

MAX_PAYERS = 4096
"""Payers that are remembered, those of the latest events."""
FIRST_SUSPENSION_S = 60.0
"""Seconds for which the offers of a payer are declined after its first hold that could not become final."""
MAX_SUSPENSION_S = 3600.0
"""Longest such time: it doubles with each further hold. So long after its end, the earlier ones count no more."""


@dataclass(slots=True)
class PayerRecord:
    """One payer. ``paid`` is in micro-credits, times in seconds of the node's monotonic clock."""

    paid: int = 0
    faults: int = 0
    """Holds that could not become final."""
    suspended_until: float = float("-inf")


class PaymentHistory:
    """The payers of one executor."""

    def __init__(self) -> None:
        self._records: BoundedDict[bytes, PayerRecord] = BoundedDict(MAX_PAYERS)

    def get_paid(self, payer: bytes) -> int:
        """Micro-credits that ``payer`` has paid, with receipts, since its last fault."""
        record = self._records.get(payer)
        return 0 if record is None else record.paid

    def get_suspension(self, payer: bytes, now: float) -> float:
        """Seconds for which offers of ``payer`` are declined yet."""
        record = self._records.get(payer)
        return 0.0 if record is None else max(0.0, record.suspended_until - now)

    def note_payment(self, payer: bytes, amount: int) -> None:
        """A capture with a receipt of ``payer`` is final."""
        self._touch(payer).paid += amount

    def note_fault(self, payer: bytes, now: float) -> None:
        """A hold that ``payer`` signed cannot become final."""
        record = self._touch(payer)
        if now - record.suspended_until > MAX_SUSPENSION_S:
            record.faults = 0
        suspension = min(MAX_SUSPENSION_S, FIRST_SUSPENSION_S * 2.0**record.faults)
        record.paid = 0
        record.faults += 1
        record.suspended_until = max(record.suspended_until, now + suspension)

    def _touch(self, payer: bytes) -> PayerRecord:
        """The record of ``payer``, as the one that is forgotten last."""
        record = self._records[payer] = self._records.get(payer) or PayerRecord()
        return record
