"""The credit line of a payer: how much an executor delivers before the payment for it is final.

A payer has a line because it has paid before, or because the chain is halted and no payment can become final.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from chain.collections import SparseCounter
from consensus.engine import Engine
from serving.accounting.payee import Payee


class CreditExhausted(Exception):
    """The payer owes too much already."""


class CreditLine:
    """Lends each payer what it has paid this node divided by ``paid_share``.

    While the chain is halted it is at least ``halt_limit`` micro-credits, or the payer's last final balance divided
    by ``halt_share`` if that is less.
    """

    def __init__(self, engine: Engine, payee: Payee, paid_share: int, halt_limit: int, halt_share: int) -> None:
        self._engine = engine
        self._payee = payee
        self._paid_share = paid_share
        self._halt_limit = halt_limit
        self._halt_share = halt_share
        self._halted_after: float | None = None
        """When the last block became final before the halt that was noted (trio time)."""
        self.lent: SparseCounter[bytes] = SparseCounter()
        """Micro-credits lent to each payer for answers under way."""

    def note_halt(self) -> None:
        """The chain is halted, until the next block becomes final."""
        self._halted_after = self._engine.last_final_at

    def get_limit(self, payer: bytes) -> int:
        """Most micro-credits that may be lent to ``payer`` now."""
        earned = self._payee.history.get_paid(payer) // self._paid_share
        if self._halted_after != self._engine.last_final_at:
            return earned
        balance = self._engine.state.account(payer).available
        return max(earned, min(self._halt_limit, balance // self._halt_share))

    @contextmanager
    def lend(self, payer: bytes, amount: int) -> Iterator[None]:
        """Count ``amount`` as lent to ``payer`` within the context. Unpaid deliveries of the payer count as well.

        Raises:
            CreditExhausted: that would be too much.
        """
        unpaid = self.lent[payer] + self._payee.get_unpaid(payer)
        if unpaid + amount > self.get_limit(payer):
            raise CreditExhausted
        self.lent[payer] += amount
        try:
            yield
        finally:
            self.lent[payer] -= amount
