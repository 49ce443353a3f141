"""The credit line: bounded by what was paid, and in a halt by the balance, for all answers of one payer together."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from serving.accounting.credit_line import CreditExhausted, CreditLine
from serving.accounting.payment_history import PaymentHistory

PAYER, OTHER = b"p" * 32, b"o" * 32


@dataclass
class Ledger:
    """Balances, and what is delivered but not paid; stands for the engine, its state and the payee."""

    balances: dict[bytes, int]
    unpaid: dict[bytes, int] = field(default_factory=dict)
    history: PaymentHistory = field(default_factory=PaymentHistory)
    last_final_at: float = 100.0

    @property
    def state(self) -> Ledger:
        return self

    def account(self, payer: bytes) -> Any:
        return SimpleNamespace(available=self.balances[payer])

    def get_unpaid(self, payer: bytes) -> int:
        return self.unpaid.get(payer, 0)


def make_credit(ledger: Ledger, limit: int, share: int) -> CreditLine:
    """In a halt; of what was paid a tenth is lent."""
    credit = CreditLine(cast(Any, ledger), cast(Any, ledger), 10, limit, share)
    credit.note_halt()
    return credit


def test_loans_of_a_payer_add_up_and_are_given_back() -> None:
    credit = make_credit(Ledger({PAYER: 1_000, OTHER: 1_000}), limit=100, share=2)
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


def test_the_balance_bounds_it_too() -> None:
    credit = make_credit(Ledger({PAYER: 100}), limit=1_000, share=10)
    with pytest.raises(CreditExhausted), credit.lend(PAYER, 11):
        pass
    with credit.lend(PAYER, 10):
        pass


def test_what_is_delivered_and_not_paid_counts() -> None:
    ledger = Ledger({PAYER: 1_000}, {PAYER: 95})
    credit = make_credit(ledger, limit=100, share=1)
    with pytest.raises(CreditExhausted), credit.lend(PAYER, 6):
        pass
    with credit.lend(PAYER, 5):
        pass


def test_without_a_halt_a_share_of_what_was_paid_is_lent() -> None:
    ledger = Ledger({PAYER: 1_000_000})
    credit = make_credit(ledger, limit=100, share=1)
    ledger.last_final_at = 101.0  # a block is final: the halt is over
    with pytest.raises(CreditExhausted), credit.lend(PAYER, 1):
        pass
    ledger.history.note_payment(PAYER, 600)
    ledger.history.note_payment(PAYER, 400)
    with credit.lend(PAYER, 60), credit.lend(PAYER, 40):
        assert credit.lent == {PAYER: 100}
        with pytest.raises(CreditExhausted), credit.lend(PAYER, 1):
            pass
    ledger.unpaid[PAYER] = 1
    with pytest.raises(CreditExhausted), credit.lend(PAYER, 100):
        pass
    ledger.history.note_fault(PAYER, 0.0)
    with pytest.raises(CreditExhausted), credit.lend(PAYER, 1):
        pass


def test_in_a_halt_the_larger_of_both_lines_counts() -> None:
    ledger = Ledger({PAYER: 1_000})
    credit = make_credit(ledger, limit=100, share=10)
    assert credit.get_limit(PAYER) == 100
    ledger.history.note_payment(PAYER, 2_000)
    assert credit.get_limit(PAYER) == 200
