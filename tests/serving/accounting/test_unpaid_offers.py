"""Unpaid offers: as many as the payer's allowance, and no more in all than it can pay."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, cast

import pytest

from chain.parameters.parameters import Parameters
from chain.transition.deposits import compute_hold_deposit
from serving.accounting.payment_history import FIRST_ALLOWANCE, PaymentHistory
from serving.accounting.unpaid_offers import TooManyUnpaid, UnpaidOffers

PAYER, OTHER = b"p" * 32, b"o" * 32


class Ledger:
    """Everybody has ``available`` micro-credits; stands for the engine, its state and the payee."""

    def __init__(self, deposit_per_byte: int = 0, available: int = 1_000) -> None:
        self.genesis = SimpleNamespace(parameters=Parameters(deposit_per_byte=deposit_per_byte))
        self.available = available
        self.history = PaymentHistory()
        self.pending: dict[bytes, list[int]] = {}

    @property
    def state(self) -> Ledger:
        return self

    def account(self, payer: bytes) -> Any:
        return SimpleNamespace(available=self.available)

    def get_pending_holds(self, payer: bytes) -> list[int]:
        return self.pending.get(payer, [])


def make_offers(ledger: Ledger) -> UnpaidOffers:
    return UnpaidOffers(cast(Any, ledger), cast(Any, ledger))


def test_a_payer_has_as_many_at_a_time_as_its_allowance() -> None:
    ledger = Ledger()
    offers = make_offers(ledger)
    for allowance in (FIRST_ALLOWANCE, FIRST_ALLOWANCE + 1):
        with ExitStack() as unpaid:
            for _ in range(allowance):
                unpaid.enter_context(offers.reserve(PAYER, 1))
            with pytest.raises(TooManyUnpaid, match=f"{allowance} offers"):
                unpaid.enter_context(offers.reserve(PAYER, 1))
            unpaid.enter_context(offers.reserve(OTHER, 1))
        ledger.history.note_payment(PAYER, 1)


def test_together_they_are_no_more_than_it_has() -> None:
    ledger = Ledger()
    offers = make_offers(ledger)
    with pytest.raises(TooManyUnpaid, match="cannot pay"), offers.reserve(PAYER, 1_001):
        pass
    with offers.reserve(PAYER, 600):
        with pytest.raises(TooManyUnpaid, match="cannot pay"), offers.reserve(PAYER, 401):
            pass
        with offers.reserve(PAYER, 400), offers.reserve(OTHER, 1_000):
            pass
    with offers.reserve(PAYER, 1_000):
        pass


def test_the_deposits_of_their_holds_count_too() -> None:
    deposit = compute_hold_deposit(Parameters(deposit_per_byte=1))
    ledger = Ledger(1, 2 * deposit + 1_000)
    offers = make_offers(ledger)
    ledger.pending[PAYER] = [600]
    with pytest.raises(TooManyUnpaid, match="cannot pay"), offers.reserve(PAYER, 401):
        pass
    with offers.reserve(PAYER, 400):
        pass


def test_holds_that_are_not_final_count_although_their_sessions_are_over() -> None:
    ledger = Ledger()
    offers = make_offers(ledger)
    ledger.pending[PAYER] = [700]
    with pytest.raises(TooManyUnpaid, match="cannot pay"), offers.reserve(PAYER, 301):
        pass
    ledger.pending[PAYER] = [1, 1]
    with pytest.raises(TooManyUnpaid, match="2 offers"), offers.reserve(PAYER, 1):
        pass
