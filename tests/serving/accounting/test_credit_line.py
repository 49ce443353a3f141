"""The credit line: bounded by what was paid, for all answers of one payer together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from serving.accounting.credit_line import CreditExhausted, CreditLine
from serving.accounting.payment_history import PaymentHistory

PAYER, OTHER = b"p" * 32, b"o" * 32


@dataclass
class Deliveries:
    """What was paid, and what is delivered but not paid; stands for the payee."""

    unpaid: dict[bytes, int] = field(default_factory=dict)
    history: PaymentHistory = field(default_factory=PaymentHistory)

    def get_unpaid(self, payer: bytes) -> int:
        return self.unpaid.get(payer, 0)


def make_credit(deliveries: Deliveries, *payers: bytes) -> CreditLine:
    """A tenth is lent of the 1,000 micro-credits that each of ``payers`` has paid."""
    for payer in payers:
        deliveries.history.note_payment(payer, 600)
        deliveries.history.note_payment(payer, 400)
    return CreditLine(cast(Any, deliveries), 10)


def test_loans_of_a_payer_add_up_and_are_given_back() -> None:
    credit = make_credit(Deliveries(), PAYER, OTHER)
    with credit.lend(PAYER, 60):
        with pytest.raises(CreditExhausted), credit.lend(PAYER, 41):
            pass
        with credit.lend(PAYER, 40), credit.lend(OTHER, 100):
            assert credit.lent == {PAYER: 100, OTHER: 100}
        assert credit.lent == {PAYER: 60}
    assert credit.lent == {}
    with pytest.raises(KeyError), credit.lend(PAYER, 100):
        raise KeyError
    assert credit.lent == {}


def test_what_is_delivered_and_not_paid_counts() -> None:
    credit = make_credit(Deliveries({PAYER: 95}), PAYER)
    with pytest.raises(CreditExhausted), credit.lend(PAYER, 6):
        pass
    with credit.lend(PAYER, 5):
        pass


def test_a_stranger_has_none_and_neither_has_who_failed_to_pay() -> None:
    deliveries = Deliveries()
    credit = make_credit(deliveries, PAYER)
    with pytest.raises(CreditExhausted), credit.lend(OTHER, 1):
        pass
    deliveries.history.note_fault(PAYER, 0.0)
    with pytest.raises(CreditExhausted), credit.lend(PAYER, 1):
        pass
