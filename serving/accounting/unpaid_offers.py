"""Offers that an executor has accepted and that are not paid yet: number and amount, by payer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from chain.collections import SparseCounter
from chain.transition.deposits import compute_hold_deposit
from consensus.engine import Engine
from serving.accounting.payee import Payee


class TooManyUnpaid(Exception):
    """The payer has to pay for other offers first; the message says why."""


class UnpaidOffers:
    """The unpaid offers of each payer, bounded by its allowance and by its balance."""

    def __init__(self, engine: Engine, payee: Payee) -> None:
        self._engine = engine
        self._payee = payee
        self._counts: SparseCounter[bytes] = SparseCounter()
        self._amounts: SparseCounter[bytes] = SparseCounter()

    @contextmanager
    def reserve(self, payer: bytes, amount: int) -> Iterator[None]:
        """Count an offer of ``amount`` micro-credits as unpaid within the context: until its hold is final.

        Raises:
            TooManyUnpaid: ``payer`` has too many, or cannot pay for all of them.
        """
        pending = self._payee.get_pending_holds(payer)
        count = self._counts[payer] + len(pending)
        if count >= self._payee.history.get_allowance(payer):
            raise TooManyUnpaid(f"{count} offers of yours are not paid yet")
        promised = self._amounts[payer] + sum(pending) + amount
        promised += (count + 1) * compute_hold_deposit(self._engine.genesis.parameters)
        if self._engine.state.account(payer).available < promised:
            raise TooManyUnpaid("the payer cannot pay")
        self._counts[payer] += 1
        self._amounts[payer] += amount
        try:
            yield
        finally:
            self._counts[payer] -= 1
            self._amounts[payer] -= amount
