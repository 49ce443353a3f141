"""The credit line of a payer: how much an executor delivers before the payment for it is final.

The line of a payer follows from its earlier payments. Its balance does not count, even while the chain is halted: every
executor would lend against the same balance, and its owner may move it away with the first block after the halt.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from chain.collections import SparseCounter
from serving.accounting.payee import Payee


class CreditExhausted(Exception):
    """The payer owes too much already."""


class CreditLine:
    """Lends each payer what it has paid this node divided by ``paid_share``."""

    def __init__(self, payee: Payee, paid_share: int) -> None:
        self._payee = payee
        self._paid_share = paid_share
        self.lent: SparseCounter[bytes] = SparseCounter()
        """Micro-credits lent to each payer for answers under way."""

    def get_limit(self, payer: bytes) -> int:
        """Most micro-credits that may be lent to ``payer`` now."""
        return self._payee.history.get_paid(payer) // self._paid_share

    def covers(self, payer: bytes, amount: int) -> bool:
        """Whether ``amount`` may be lent to ``payer`` now. Unpaid deliveries of the payer count as lent."""
        return self.lent[payer] + self._payee.get_unpaid(payer) + amount <= self.get_limit(payer)

    @contextmanager
    def lend(self, payer: bytes, amount: int) -> Iterator[None]:
        """Count ``amount`` as lent to ``payer`` within the context.

        Raises:
            CreditExhausted: that would be too much.
        """
        if not self.covers(payer, amount):
            raise CreditExhausted
        self.lent[payer] += amount
        try:
            yield
        finally:
            self.lent[payer] -= amount
