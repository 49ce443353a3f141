"""What an executor remembers of payers: sums, suspensions that double and end, and no more than so many payers."""

from __future__ import annotations

from serving.accounting.payment_history import (
    FIRST_ALLOWANCE,
    FIRST_REFUNDS,
    FIRST_SUSPENSION_S,
    LEFT_WORK_S,
    MAX_ALLOWANCE,
    MAX_PAYERS,
    MAX_SUSPENSION_S,
    PaymentHistory,
)

PAYER, OTHER = b"p" * 32, b"o" * 32


def test_payments_add_up_for_each_payer() -> None:
    history = PaymentHistory()
    history.note_payment(PAYER, 3)
    history.note_payment(PAYER, 4)
    assert (history.get_paid(PAYER), history.get_paid(OTHER)) == (7, 0)
    assert history.get_suspension(PAYER, 0.0) == 0.0


def test_a_fault_suspends_and_takes_away_what_was_earned() -> None:
    history = PaymentHistory()
    history.note_payment(PAYER, 1_000)
    history.note_fault(PAYER, 10.0)
    assert history.get_paid(PAYER) == 0
    assert history.get_suspension(PAYER, 10.0) == FIRST_SUSPENSION_S
    assert history.get_suspension(PAYER, 11.0) == FIRST_SUSPENSION_S - 1.0
    assert history.get_suspension(PAYER, 10.0 + FIRST_SUSPENSION_S) == 0.0
    assert history.get_suspension(OTHER, 10.0) == 0.0


def test_each_further_fault_doubles_it_up_to_a_limit_and_it_is_forgotten_after_as_long() -> None:
    history, now, suspensions = PaymentHistory(), 0.0, []
    for _ in range(8):
        history.note_fault(PAYER, now)
        suspensions.append(history.get_suspension(PAYER, now))
        now += suspensions[-1]
    assert suspensions == [min(MAX_SUSPENSION_S, FIRST_SUSPENSION_S * 2**number) for number in range(8)]
    now += MAX_SUSPENSION_S + 1.0
    history.note_fault(PAYER, now)
    assert history.get_suspension(PAYER, now) == FIRST_SUSPENSION_S


def test_the_payer_of_the_oldest_event_is_forgotten_first() -> None:
    history = PaymentHistory()
    history.note_payment(OTHER, 1)
    history.note_payment(PAYER, 1)
    for number in range(MAX_PAYERS - 1):
        history.note_payment(number.to_bytes(32, "big"), 1)
    assert (history.get_paid(PAYER), history.get_paid(OTHER)) == (1, 0)


def test_the_allowance_grows_by_payments_and_is_halved_by_what_is_left_unpaid() -> None:
    history = PaymentHistory()
    assert history.get_allowance(PAYER) == FIRST_ALLOWANCE == 2
    for _ in range(100):
        history.note_payment(PAYER, 1)
    assert history.get_allowance(PAYER) == MAX_ALLOWANCE
    for halved in (32, 16, 8, 4, 2, 1):
        history.note_unpaid(PAYER, 0.0)
        assert history.get_allowance(PAYER) == halved
    assert history.get_suspension(PAYER, 0.0) == 0.0 and history.get_paid(PAYER) == 100
    history.note_unpaid(PAYER, 0.0)
    assert history.get_suspension(PAYER, 0.0) == FIRST_SUSPENSION_S and history.get_paid(PAYER) == 0
    assert history.get_allowance(PAYER) == FIRST_ALLOWANCE


def test_few_unpaid_offers_that_were_under_way_together_halve_the_allowance_once() -> None:
    history = PaymentHistory()
    for _ in range(100):
        history.note_payment(PAYER, 1)
    for number in range(MAX_ALLOWANCE // 2):
        history.note_unpaid(PAYER, 2.0 + number / 100, accepted_at=1.0)
    assert history.get_allowance(PAYER) == MAX_ALLOWANCE // 2
    history.note_unpaid(PAYER, 4.0, accepted_at=3.0)
    assert history.get_allowance(PAYER) == MAX_ALLOWANCE // 4


def test_a_payer_that_uses_up_its_allowance_and_pays_nothing_of_it_is_suspended() -> None:
    history = PaymentHistory()
    for _ in range(100):
        history.note_payment(PAYER, 1)
    for number in range(MAX_ALLOWANCE):
        assert history.get_suspension(PAYER, 2.0) == 0.0
        history.note_unpaid(PAYER, 2.0 + number / 100, accepted_at=1.0)
    assert history.get_suspension(PAYER, 3.0) > 0.0 and history.get_paid(PAYER) == 0
    assert history.get_allowance(OTHER) == FIRST_ALLOWANCE


def test_as_many_refunds_as_payments_after_the_first() -> None:
    history = PaymentHistory()
    assert [history.take_refund(PAYER) for _ in range(FIRST_REFUNDS + 1)] == [True] * FIRST_REFUNDS + [False]
    history.note_payment(PAYER, 1)
    assert [history.take_refund(PAYER) for _ in range(2)] == [True, False]
    history.note_payment(PAYER, 1)
    history.note_fault(PAYER, 0.0)
    assert not history.take_refund(PAYER) and history.take_refund(OTHER)


def test_much_work_for_requests_that_were_left_counts_as_an_offer_left_unpaid() -> None:
    history = PaymentHistory()
    for _ in range(29):
        history.note_left(PAYER, 2.0, 0.0)
    assert history.get_allowance(PAYER) == FIRST_ALLOWANCE
    history.note_left(PAYER, 2.0, 0.0)
    assert history.get_allowance(PAYER) == FIRST_ALLOWANCE // 2 and not history.get_suspension(PAYER, 0.0)
    history.note_left(PAYER, 3 * LEFT_WORK_S, 0.0)
    assert history.get_suspension(PAYER, 0.0) == 2 * FIRST_SUSPENSION_S
