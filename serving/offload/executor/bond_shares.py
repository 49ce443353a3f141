"""The part of an executor's bond that stands behind the requests of each payer.

A payer with large holds that buys little could keep the whole bond occupied, at no cost but the fees of its holds. So a
payer's requests are backed in full up to the amount that it has paid this node before. All that exceeds these amounts,
for all payers together, is backed by a share of the bond.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from chain.collections import SparseCounter
from consensus.engine import Engine
from serving.accounting.payee import Payee

UNPROVEN_SHARE = 4
"""One part in so many of the bond is for requests beyond the amounts that their payers have paid before."""


class BondExhausted(Exception):
    """The bond does not cover a request; the message says why. ``is_for_now``: it may do so once others are settled."""

    def __init__(self, needed: int, free: int, is_for_now: bool) -> None:
        super().__init__(f"this request needs a bond of {needed} micro-credits, {max(0, free)} are free here")
        self.is_for_now = is_for_now


class BondShares:
    """The requests that the bond backs, by payer."""

    def __init__(self, engine: Engine, payee: Payee, public_key: bytes) -> None:
        self._engine = engine
        self._payee = payee
        self._me = public_key
        self._payers: dict[bytes, bytes] = {}
        """The payers of the requests that are backed, by hold id."""

    @contextmanager
    def back(self, payer: bytes, hold_id: bytes, price: int) -> Iterator[None]:
        """Have the bond stand behind a request that costs at most ``price``, within the context.

        Raises:
            BondExhausted: it does not cover it.
        """
        account, factor = self._engine.state.account(self._me), self._engine.genesis.parameters.bond_per_hold
        needed, free = factor * price, self._payee.compute_free_bond()
        if needed > free:
            raise BondExhausted(needed, free, needed <= account.bonded)
        others, whole = self._compute_unproven(), self._compute_unproven(payer, price)
        share = (account.bonded - account.locked) // UNPROVEN_SHARE
        if whole > others and factor * whole > share:
            is_for_now = factor * (price - self._payee.history.get_paid(payer)) <= account.bonded // UNPROVEN_SHARE
            raise BondExhausted(factor * (whole - others), share - factor * others, is_for_now)
        self._payers[hold_id] = payer
        try:
            with self._payee.backing(hold_id, price):
                yield
        finally:
            del self._payers[hold_id]

    def _compute_unproven(self, payer: bytes = b"", price: int = 0) -> int:
        """Micro-credits that are backed beyond what their payers have paid, with ``price`` more of ``payer``."""
        amounts: SparseCounter[bytes] = SparseCounter()
        for hold_id, other in self._payers.items():
            amounts[other] += self._payee.get_backing(hold_id)
        amounts[payer] += price
        return sum(max(0, amount - self._payee.history.get_paid(each)) for each, amount in amounts.items())
