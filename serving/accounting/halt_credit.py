"""Credit while the chain is halted: how much an executor delivers although no payment becomes final."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from chain.collections import SparseCounter
from consensus.engine import Engine
from serving.accounting.payee import Payee


class CreditExhausted(Exception):
    """The payer owes too much already."""


class HaltCredit:
    """Lends each payer ``limit`` micro-credits, or its last final balance divided by ``share`` if that is less."""

    def __init__(self, engine: Engine, payee: Payee, limit: int, share: int) -> None:
        self._engine = engine
        self._payee = payee
        self._limit = limit
        self._share = share
        self.lent: SparseCounter[bytes] = SparseCounter()
        """Micro-credits lent to each payer for answers under way."""

    @contextmanager
    def lend(self, payer: bytes, amount: int) -> Iterator[None]:
        """Count ``amount`` as lent to ``payer`` within the context. Unpaid deliveries of the payer count as well.

        Raises:
            CreditExhausted: that would be too much.
        """
        balance = self._engine.state.account(payer).available
        unpaid = self.lent[payer] + self._payee.get_unpaid(payer)
        if unpaid + amount > min(self._limit, balance // self._share):
            raise CreditExhausted
        self.lent[payer] += amount
        try:
            yield
        finally:
            self.lent[payer] -= amount
