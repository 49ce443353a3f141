"""Captures without a receipt: what they lock of the payee's bond, and what a dispute takes from both sides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chain.crypto import KeyPair
from chain.state.state import compute_supply
from chain.types.operations import Dispute, SignedOperation
from tests.support.chain_builder import Chain, do, failure, refusal
from tests.support.chains.newcomers import GRANT, GRANTING, register
from tests.support.keys import make_key

GRACE_MS = GRANTING.capture_grace_ms


def make_chain(bonded: int, *amounts: int) -> tuple[Chain, KeyPair, KeyPair]:
    """A chain with holds 0, 1, … of ``amounts`` for its only executor, who has bonded so much; payer and executor."""
    chain = Chain(validators=1, stakes=(bonded,))
    payer, payee = chain.users[0], chain.validators[0]
    do(chain, *[chain.hold(payer, seq, amount=amount, lifetime=20_000) for seq, amount in enumerate(amounts)])
    return chain, payer, payee


def dispute(chain: Chain, payer: KeyPair, seq: int) -> SignedOperation:
    return chain.sign(payer, Dispute(chain.find_hold_id(payer, seq)))


def test_a_capture_without_a_receipt_locks_as_much_of_the_bond_until_it_is_paid() -> None:
    chain, payer, payee = make_chain(10_000, 5_000)
    before = chain.account(payee)
    fee = do(chain, chain.capture(payee, chain.delivery(payer, 0, amount=3_000)))
    account = chain.account(payee)
    assert account == replace(before, available=before.available - fee, locked=3_000)
    assert (account.own_bond, account.free_bond) == (10_000, 7_000)
    chain.append(elapsed=GRACE_MS)
    assert chain.account(payee) == replace(account, available=account.available + 3_000, locked=0)


def test_a_receipt_and_a_refund_lock_nothing() -> None:
    chain, payer, payee = make_chain(1_000, 5_000, 5_000)
    receipted = chain.receipt(payer, chain.delivery(payer, 0, amount=5_000))
    do(chain, chain.capture(payee, receipted, chain.delivery(payer, 1, amount=0)))
    assert chain.account(payee).locked == 0


def test_what_no_bond_stands_behind_cannot_be_captured_without_a_receipt() -> None:
    chain, payer, payee = make_chain(2_000, 5_000, 5_000, 5_000)
    reason = "locks 2001 micro-credits of the bond, 2000 are free"
    assert reason in refusal(chain, chain.capture(payee, chain.delivery(payer, 0, amount=2_001)))
    both = [chain.delivery(payer, seq, amount=1_001) for seq in (0, 1)]
    assert "locks 1001" in refusal(chain, chain.capture(payee, *both)), "one bond does not stand behind two captures"
    do(chain, chain.capture(payee, chain.delivery(payer, 0, amount=2_000)))
    assert "0 are free" in refusal(chain, chain.capture(payee, chain.delivery(payer, 1, amount=1)))
    do(chain, chain.capture(payee, chain.receipt(payer, chain.delivery(payer, 1, amount=5_000))))
    chain.append(elapsed=GRACE_MS)
    do(chain, chain.capture(payee, chain.delivery(payer, 2, amount=2_000)))


def test_a_locked_bond_cannot_leave() -> None:
    chain, payer, payee = make_chain(10_000, 5_000)
    do(chain, chain.capture(payee, chain.delivery(payer, 0, amount=3_000)))
    assert "7000 bonded, not granted and not locked" in failure(chain, chain.unbond(payee, 7_001))
    do(chain, chain.unbond(payee, 7_000), elapsed=1)
    assert chain.account(payee).bonded == 3_000
    chain.append(elapsed=GRACE_MS)
    do(chain, chain.unbond(payee, 3_000))


@pytest.mark.parametrize("amount", [1, 1_000, 5_000])
def test_a_dispute_costs_both_sides_the_same(amount: int) -> None:
    """Fees aside, whoever makes the other lose it loses as much: the one that captures, and the one that disputes."""
    chain, payer, payee = make_chain(10_000, 5_000)
    before, earner, treasury = chain.account(payer), chain.account(payee), chain.state.totals.treasury
    captured = do(chain, chain.capture(payee, chain.delivery(payer, 0, amount=amount)))
    disputed = do(chain, dispute(chain, payer, 0))
    assert chain.account(payer).total == before.total - amount - disputed
    assert chain.account(payee).total == earner.total - amount - captured
    assert chain.account(payee) == replace(
        earner, available=earner.available - captured, bonded=earner.bonded - amount, locked=0
    )
    assert chain.state.totals.treasury == treasury + 2 * amount + captured + disputed
    after = chain.account(payee)
    chain.append(elapsed=GRACE_MS)
    assert chain.account(payee) == after, "nothing is left to be paid"


def test_each_capture_has_a_lock_of_its_own() -> None:
    chain, payer, payee = make_chain(10_000, 2_000, 3_000, 4_000)
    do(chain, chain.capture(payee, *[chain.delivery(payer, seq, amount=2_000 + 1_000 * seq) for seq in range(3)]))
    assert chain.account(payee).locked == 9_000
    do(chain, dispute(chain, payer, 1), elapsed=1)
    assert (chain.account(payee).bonded, chain.account(payee).locked) == (7_000, 6_000)
    chain.append(elapsed=GRACE_MS)
    assert (chain.account(payee).bonded, chain.account(payee).locked) == (7_000, 0)


def test_a_dispute_takes_no_more_from_the_payer_than_from_the_payee() -> None:
    """Who was slashed between capture and dispute has nothing left to lose by it: so the payer loses nothing either."""
    chain, payer, payee = make_chain(10_000, 5_000)
    before = chain.account(payer)
    do(chain, chain.capture(payee, chain.delivery(payer, 0, amount=5_000)))
    do(chain, chain.evidence(chain.users[1], payee), elapsed=1)
    assert (chain.account(payee).bonded, chain.account(payee).locked, chain.account(payee).free_bond) == (0, 5_000, 0)
    fee = do(chain, dispute(chain, payer, 0), elapsed=1)
    assert chain.account(payer) == replace(before, held=0, available=before.available + 5_000 - fee)
    assert (chain.account(payee).bonded, chain.account(payee).locked) == (0, 0)


def test_a_grant_backs_no_capture() -> None:
    """It cost its owner nothing: a newcomer that lies would lose nothing of its own."""
    chain, newcomer = Chain(parameters=replace(GRANTING, newcomer_share=1_000)), make_key("newcomer")
    payer = chain.users[0]
    chain.keys[newcomer.public_key] = newcomer
    chain.append([register(chain, newcomer)])
    chain.append_epochs(2)
    holds = [chain.hold(payer, seq, amount=GRANT, lifetime=20_000) for seq in range(3)]
    assert all(chain.executor(payer, seq) is newcomer for seq in range(3))
    supply = chain.genesis.supply + GRANT
    chain.append(holds)
    assert "0 are free" in refusal(chain, chain.capture(newcomer, chain.delivery(payer, 0, amount=300)))
    chain.append([chain.capture(newcomer, chain.receipt(payer, chain.delivery(payer, 0, amount=GRANT)))])
    free = chain.account(newcomer).free_bond
    assert free > 0, "what it earned is its own"
    chain.append([chain.transfer(payer, newcomer, 10_000)])
    reason = f"{free} are free"
    assert reason in refusal(chain, chain.capture(newcomer, chain.delivery(payer, 1, amount=free + 1)))
    chain.append([chain.capture(newcomer, chain.delivery(payer, 1, amount=free))])
    chain.append([dispute(chain, payer, 1)])
    assert (chain.account(newcomer).bonded, chain.account(newcomer).grant) == (GRANT, GRANT)
    assert compute_supply(chain.state) == chain.state.totals.supply == supply
