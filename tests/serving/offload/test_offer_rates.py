"""Offers a second: few of a stranger, more of a payer with each payment, and a bound for all strangers."""

from __future__ import annotations

from collections import Counter

from serving.accounting.payment_history import FIRST_ALLOWANCE, MAX_ALLOWANCE, PaymentHistory
from serving.offload.executor.offer_rates import (
    BLAME_FACTOR,
    BURST_S,
    OFFERS_PER_ALLOWANCE,
    STRANGERS_RATE,
    OfferRates,
    Verdict,
)

PAYER, OTHER = b"p" * 32, b"o" * 32
FIRST_RATE = FIRST_ALLOWANCE * OFFERS_PER_ALLOWANCE


def judge_many(rates: OfferRates, payer: bytes, offers: int, now: float) -> Counter[Verdict]:
    return Counter(rates.judge(payer, now) for _ in range(offers))


def test_a_stranger_is_not_heard_beyond_its_rate_and_heard_again_later() -> None:
    rates = OfferRates(PaymentHistory())
    burst = int(FIRST_RATE * BURST_S)
    assert judge_many(rates, PAYER, burst + 1, 0.0) == {Verdict.ADMIT: burst, Verdict.REFUSE: 1}
    assert rates.judge(OTHER, 0.0) is Verdict.ADMIT
    assert judge_many(rates, PAYER, 2 * FIRST_RATE, 1.0) == {Verdict.ADMIT: FIRST_RATE, Verdict.REFUSE: FIRST_RATE}


def test_a_stranger_is_blamed_for_far_too_many_offers_and_no_longer_once_it_makes_fewer() -> None:
    rates = OfferRates(PaymentHistory())
    blameless = int(BLAME_FACTOR * FIRST_RATE * BURST_S)
    verdicts = judge_many(rates, PAYER, blameless + 10, 0.0)
    assert verdicts[Verdict.BLAME] == 10 and verdicts[Verdict.ADMIT] == int(FIRST_RATE * BURST_S)
    assert rates.judge(OTHER, 0.0) is Verdict.ADMIT
    assert judge_many(rates, PAYER, FIRST_RATE, 10.0) == {Verdict.ADMIT: FIRST_RATE}


def test_each_payment_raises_the_rate_and_a_fault_ends_that() -> None:
    history = PaymentHistory()
    admitted = []
    for _ in range(2 * MAX_ALLOWANCE):
        history.note_payment(PAYER, 1)
        admitted.append(judge_many(OfferRates(history), PAYER, 2_000, 0.0)[Verdict.ADMIT])
    assert admitted == sorted(admitted) and admitted[0] > FIRST_RATE * BURST_S
    assert admitted[-1] == OFFERS_PER_ALLOWANCE * MAX_ALLOWANCE * BURST_S
    history.note_fault(PAYER, 0.0)
    assert judge_many(OfferRates(history), PAYER, 2_000, 0.0)[Verdict.ADMIT] == FIRST_RATE * BURST_S


def test_all_strangers_have_a_bound_which_is_the_fault_of_none_and_concerns_no_payer() -> None:
    history = PaymentHistory()
    rates = OfferRates(history)
    strangers = [number.to_bytes(32, "big") for number in range(100)]
    verdicts = Counter(rates.judge(stranger, 0.0) for _ in range(8) for stranger in strangers)
    bound = int(STRANGERS_RATE.items * STRANGERS_RATE.burst)
    assert verdicts == {Verdict.ADMIT: bound, Verdict.REFUSE: 800 - bound}
    assert rates.judge(OTHER, 0.0) is Verdict.REFUSE
    history.note_payment(PAYER, 1)
    assert rates.judge(PAYER, 0.0) is Verdict.ADMIT
