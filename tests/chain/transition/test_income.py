"""Pay for work of an account with less than the minimum bond: it is bonded, can be lost, and can be taken back."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from chain.crypto import KeyPair
from chain.state.records import Account, Unbonding
from chain.state.state import State, StateOverlay
from chain.transition.duels.money import Movement, move
from chain.transition.income import bond_income
from chain.types.operations import SignedOperation
from tests.support.chain_builder import PARAMETERS, Chain, do, refusal
from tests.support.keys import make_key

MINIMUM = 8_000
"""The least bond of an executor that is drawn by its stake."""
RULES = replace(PARAMETERS, min_service_bond=MINIMUM, newcomer_share=1_000)
GRACE_MS = RULES.capture_grace_ms
KEY = make_key("earner").public_key

amounts = st.integers(0, 2 * MINIMUM)


def make_chain(bonded: int, *amounts: int, available: int = 1_000_000) -> tuple[Chain, KeyPair, KeyPair]:
    """A chain with holds 0, 1, … of ``amounts`` for its only executor, who has so much; payer and executor."""
    chain = Chain(validators=1, stakes=(bonded,), parameters=RULES)
    payer, payee = chain.users[0], chain.validators[0]
    do(chain, *[chain.hold(payer, seq, amount=amount, lifetime=20_000) for seq, amount in enumerate(amounts)])
    if available < chain.account(payee).available:
        signed = chain.transfer(payee, chain.users[1], 0)
        spent = chain.account(payee).available - available - len(signed.encoded) * RULES.fee_per_byte
        signed = chain.transfer(payee, chain.users[1], spent - 4)  # an amount of five bytes in place of one
        do(chain, signed)
    return chain, payer, payee


def capture(chain: Chain, payer: KeyPair, payee: KeyPair, *amounts: int, first: int = 0) -> SignedOperation:
    """The capture of holds ``first``, … with receipts."""
    deliveries = [chain.delivery(payer, first + place, amount=amount) for place, amount in enumerate(amounts)]
    return chain.capture(payee, *[chain.receipt(payer, delivery) for delivery in deliveries])


@given(amounts, amounts, amounts, amounts, st.integers(0, MINIMUM))
def test_income_fills_up_the_own_bond_and_nothing_else(
    available: int, bonded: int, grant: int, income: int, least: int
) -> None:
    before = Account(available=available, bonded=bonded, grant=grant)
    overlay = StateOverlay(State())
    overlay.put_account(KEY, before)
    bond_income(overlay, replace(RULES, min_service_bond=least), KEY, income)
    after = overlay.account(KEY)
    assert after.own_bond == max(before.own_bond, min(least, before.own_bond + min(income, available)))
    assert after.total == before.total
    assert after.available == available - (after.own_bond - before.own_bond)


@given(amounts, amounts, amounts, amounts, amounts, amounts)
def test_a_fee_spares_what_is_granted_or_locked(
    fee: int, available: int, bonded: int, grant: int, locked: int, unbonding: int
) -> None:
    parts = (Unbonding(unbonding, 3),) if unbonding else ()
    before = Account(available=available, bonded=bonded, grant=grant, locked=locked, unbonding=parts)
    assert before.payable == available + before.free_bond + unbonding
    if fee <= before.payable:
        after = before.pay_fee(fee)
        assert before.total - after.total == fee and before.payable - after.payable == fee
        assert after.bonded >= min(bonded, grant + locked)
        assert after.available == max(0, available - fee)


def test_what_an_executor_earns_is_bonded_until_its_bond_is_the_minimum() -> None:
    chain, payer, payee = make_chain(2_000, 5_000, 5_000, 5_000)
    before = chain.account(payee)
    fee = do(chain, capture(chain, payer, payee, 4_500))
    assert chain.account(payee) == replace(before, available=before.available - fee, bonded=6_500)
    fee += do(chain, capture(chain, payer, payee, 2_000, 3_000, first=1))
    assert chain.account(payee) == replace(before, available=before.available + 3_500 - fee, bonded=MINIMUM)


def test_a_capture_without_a_receipt_is_bonded_when_it_is_paid() -> None:
    chain, payer, payee = make_chain(5_000, 5_000)
    before = chain.account(payee)
    fee = do(chain, chain.capture(payee, chain.delivery(payer, 0, amount=4_000)))
    assert chain.account(payee) == replace(before, available=before.available - fee, locked=4_000)
    chain.append(elapsed=GRACE_MS)
    assert chain.account(payee) == replace(before, available=before.available + 1_000 - fee, bonded=MINIMUM)


def test_the_fee_of_a_capture_comes_before_the_bond() -> None:
    """Else one that has nothing available could never capture."""
    chain, payer, payee = make_chain(2_000, 5_000, available=0)
    assert chain.account(payee).available == 0
    fee = do(chain, capture(chain, payer, payee, 5_000))
    account = chain.account(payee)
    assert (account.available, account.bonded) == (0, 7_000 - fee)


def test_what_duels_pay_is_bonded_too() -> None:
    overlay = StateOverlay(Chain(parameters=RULES).state)
    overlay.put_account(KEY, Account(available=500, bonded=MINIMUM - 300))
    overlay.fill_treasury(1_000)
    move(overlay, RULES, Movement(KEY, 400))
    assert (overlay.account(KEY).available, overlay.account(KEY).bonded) == (600, MINIMUM)


def test_income_that_was_bonded_can_be_taken_back() -> None:
    """By one that has nothing available, as all of its income was bonded: fees come out of the bond then."""
    chain, payer, payee = make_chain(2_000, 5_000, 5_000, available=0)
    bonded = 7_000 - do(chain, capture(chain, payer, payee, 5_000))
    fee = len(chain.unbond(payee, bonded - 1_000).encoded)
    bonded -= do(chain, chain.unbond(payee, bonded - 1_000))
    account = chain.account(payee)
    assert (account.available, account.bonded) == (0, 1_000 - fee)
    fee = do(chain, capture(chain, payer, payee, 3_000, first=1))
    assert chain.account(payee).bonded == account.bonded + 3_000 - fee, "what is unbonding is no bond"
    rest = chain.account(payee).free_bond
    rest -= len(chain.unbond(payee, rest).encoded)
    do(chain, chain.unbond(payee, rest))
    assert (chain.account(payee).available, chain.account(payee).bonded) == (0, 0)
    leaving = sum(part.amount for part in chain.account(payee).unbonding)
    chain.append_epochs(RULES.unbonding_epochs + 2)
    fee = do(chain, chain.withdraw(payee))
    assert chain.account(payee).available == leaving - fee and not chain.account(payee).unbonding


def test_no_fee_is_paid_by_what_stands_behind_a_capture() -> None:
    chain, payer, payee = make_chain(2_000, 5_000, available=250)
    do(chain, chain.capture(payee, chain.delivery(payer, 0, amount=2_000)))
    account = chain.account(payee)
    assert account.payable < len(chain.withdraw(payee).encoded), "all of it is locked"
    assert "available, bonded or unbonding" in refusal(chain, chain.withdraw(payee))


def test_an_operation_that_fails_takes_its_fee_out_of_the_bond() -> None:
    chain, _, payee = make_chain(5_000, available=0)
    treasury = chain.state.totals.treasury
    chain.append([signed := chain.withdraw(payee)])
    assert chain.failures[-1] != (None,)
    assert chain.account(payee).bonded == 5_000 - len(signed.encoded)
    assert chain.state.totals.treasury == treasury + len(signed.encoded)
