"""Each operation's rules, one at a time: what it does, and every reason for which it is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import pytest

from chain import crypto
from chain.crypto import KeyPair
from chain.parameters.parameters import ModelPrice, Price
from chain.state.keys import SETTLEMENTS_KEY
from chain.state.records import (
    MAX_UNBONDINGS,
    REPLAY_WINDOW_SIZE,
    Account,
    DueCaptures,
    SettlementQueue,
    Unbonding,
)
from chain.state.state import compute_supply
from chain.transition.fees import compute_fee
from chain.transition.operations import _PROCESS
from chain.types.checks import DeclaredIdentity
from chain.types.operations import (
    Capture,
    CaptureItem,
    Dispute,
    Hold,
    Operation,
    Release,
    SignedOperation,
    Transfer,
    Usage,
)
from tests.support.chain_builder import MODEL, PARAMETERS, Chain, do, failure, refusal
from tests.support.keys import make_key

STRANGER = make_key("stranger")


def test_every_type_of_operation_has_one_rule() -> None:
    assert {*_PROCESS, Capture, Dispute} == set(get_args(Operation))


# Fees and nonces


def test_transfer() -> None:
    chain = Chain()
    user, other = chain.users
    fee = do(chain, chain.transfer(user, other, 700))
    assert chain.account(user) == Account(nonce=1, available=1_000_000 - 700 - fee)
    assert chain.account(other) == Account(available=1_000_700)
    assert chain.state.totals.treasury == fee


def test_transfer_to_oneself_makes_nothing() -> None:
    chain = Chain()
    user = chain.users[0]
    fee = do(chain, chain.transfer(user, user, 999_000))
    assert chain.account(user) == Account(nonce=1, available=1_000_000 - fee)


def test_transfer_of_nothing_makes_no_account() -> None:
    chain = Chain()
    do(chain, chain.transfer(chain.users[0], STRANGER, 0))
    assert STRANGER.public_key not in {key for key, _ in chain.state.accounts()}


GROWING = replace(PARAMETERS, entry_fee=5_000)
"""A chain on which the state has its price."""


def test_a_transfer_pays_for_the_account_that_it_makes() -> None:
    """It is never removed: or a flood of them would fill every node's memory for the price of their bytes."""
    chain = Chain(parameters=GROWING)
    user, other = chain.users
    fee = do(chain, chain.transfer(user, STRANGER, 1))
    assert chain.account(user) == Account(nonce=1, available=1_000_000 - 1 - 5_000 - fee)
    assert chain.account(STRANGER) == Account(available=1)
    assert chain.state.totals.treasury == fee + 5_000
    fee += do(chain, chain.transfer(user, STRANGER, 1), chain.transfer(other, user, 9))
    assert chain.state.totals.treasury == fee + 5_000, "once"


def test_a_transfer_that_cannot_pay_for_the_account_fails() -> None:
    chain = Chain(parameters=GROWING, available=20_000)
    user, other = chain.users
    transfer = chain.transfer(user, STRANGER, 20_000 - 5_000)
    assert "a new entry in the ledger costs 5000" in failure(chain, transfer)
    assert STRANGER.public_key not in {key for key, _ in chain.state.accounts()}
    fee = compute_fee(chain.genesis, chain.transfer(other, STRANGER, 15_000))
    do(chain, chain.transfer(other, STRANGER, 15_000 - fee))
    assert chain.account(other) == Account(nonce=1)


def test_a_transfer_of_nothing_makes_no_account_and_pays_for_none() -> None:
    chain = Chain(parameters=GROWING)
    fee = do(chain, chain.transfer(chain.users[0], STRANGER, 0))
    assert chain.account(chain.users[0]) == Account(nonce=1, available=1_000_000 - fee)


def test_an_account_that_has_nothing_left_is_not_paid_for_again() -> None:
    """Its entry stays, for its nonce."""
    chain = Chain(parameters=GROWING)
    user = chain.users[0]
    do(chain, chain.transfer(user, STRANGER, 300))
    assert "a new entry" not in failure(chain, chain.transfer(STRANGER, user, 10**6))
    before, treasury = chain.account(user), chain.state.totals.treasury
    fee = do(chain, chain.transfer(user, STRANGER, 300))
    assert chain.account(user).available == before.available - 300 - fee
    assert chain.state.totals.treasury == treasury + fee


def test_the_first_hold_pays_for_the_window_of_its_numbers() -> None:
    chain = Chain(parameters=GROWING, available=12_000)
    user, other = chain.users
    fee = do(chain, chain.hold(user, 3, amount=1_000))
    assert chain.account(user) == Account(available=12_000 - 1_000 - 5_000 - fee, held=1_000)
    again = do(chain, chain.hold(user, 4, amount=1_000), chain.hold(user, 0, 1, amount=1_000))
    assert chain.account(user) == Account(available=12_000 - 3_000 - 5_000 - fee - again, held=3_000)
    assert "a new entry in the ledger costs 5000" in refusal(chain, chain.hold(other, 0, amount=7_000))
    assert chain.account(other) == Account(available=12_000)


def exact_transfer(chain: Chain, key: KeyPair, left: int = 0) -> SignedOperation:
    """A transfer that leaves exactly ``left`` of what the account has, its fee counted."""
    recipient = make_key("recipient").public_key
    amount = chain.account(key).available
    for _ in range(5):
        signed = chain.transfer(key, recipient, amount)
        amount = chain.account(key).available - left - compute_fee(chain.genesis, signed)
    return chain.transfer(key, recipient, amount)


def test_everything_can_be_spent_and_not_one_micro_credit_more() -> None:
    chain = Chain()
    user = chain.users[0]
    all_of_it = exact_transfer(chain, user)
    operation = all_of_it.operation
    assert isinstance(operation, Transfer)
    beyond = chain.transfer(user, operation.recipient, operation.amount + 1)
    assert "available" in failure(chain, beyond)
    do(chain, exact_transfer(chain, user))
    assert chain.account(user) == Account(nonce=2, available=0)
    assert "the fee is" in refusal(chain, chain.transfer(user, chain.users[1], 0))


def test_a_fee_that_is_exactly_payable_is_paid() -> None:
    """The operation then fails for want of the amount; one micro-credit less and it cannot stand in a block."""
    chain = Chain(available=1_000)
    user, other = chain.users
    spend = chain.transfer(user, other, 500)
    fee = compute_fee(chain.genesis, spend)
    do(chain, exact_transfer(chain, user, left=fee))
    assert chain.account(user).available == fee
    assert "the amount is 500 micro-credits, 0 are available" in failure(chain, chain.transfer(user, other, 500))
    assert chain.account(user) == Account(nonce=2, available=0)

    chain = Chain(available=1_000)
    do(chain, exact_transfer(chain, user, left=fee - 1))
    assert f"the fee is {fee}" in refusal(chain, chain.transfer(user, other, 500))


def test_a_failed_operation_is_not_replayed() -> None:
    chain = Chain()
    user, other = chain.users
    failed = chain.transfer(user, other, 2_000_000)
    failure(chain, failed)
    assert "nonce" in refusal(chain, failed)
    do(chain, chain.transfer(other, user, 900_000))
    assert "nonce" in refusal(chain, failed)


@pytest.mark.parametrize("nonce", [0, 2, 3, 2**63 - 1])
def test_nonces_go_one_by_one(nonce: int) -> None:
    chain = Chain()
    user, other = chain.users
    do(chain, chain.transfer(user, other, 1))
    assert "next is 1" in refusal(chain, chain.transfer(user, other, 1, nonce=nonce))
    do(chain, chain.transfer(user, other, 1, nonce=1), chain.transfer(user, other, 1, nonce=2))
    assert chain.account(user).nonce == 3


def test_strangers_cannot_do_anything() -> None:
    chain = Chain()
    user = chain.users[0]
    for operation in (
        chain.transfer(STRANGER, user, 0),
        chain.bond(STRANGER, 0),
        chain.withdraw(STRANGER),
        chain.serve(STRANGER),
        chain.hold(STRANGER, 0, amount=0),
    ):
        assert "the fee is" in refusal(chain, operation)
    assert "no open hold" in refusal(chain, chain.capture(STRANGER, chain.delivery(user, 0)))
    assert "the fee is" in refusal(chain, chain.sign(STRANGER, Release(chain.find_hold_id(user, 0))))


def test_money_received_can_be_spent_in_the_same_block() -> None:
    chain = Chain()
    user, other = chain.users
    do(chain, chain.transfer(user, STRANGER, 5_000), chain.transfer(STRANGER, other, 4_000))
    assert chain.account(other).available == 1_004_000


def test_without_fees_nothing_reaches_the_treasury() -> None:
    chain = Chain(parameters=replace(PARAMETERS, fee_per_byte=0))
    user, other = chain.users
    do(chain, chain.transfer(user, other, 1_000_000), chain.hold(other, 0, amount=2_000_000))
    assert chain.state.totals.treasury == 0 and chain.account(other).held == 2_000_000


# Bonds


def test_bond_unbond_withdraw() -> None:
    chain = Chain()  # epochs of 4 heights, 2 epochs of unbonding
    user = chain.users[0]
    do(chain, chain.bond(user, 10_000), chain.unbond(user, 4_000, nonce=1))
    # Unbonded in epoch 0, the stake still stands in the frozen table of epoch 1: epochs 2 and 3 in full from there.
    assert chain.account(user).unbonding == (Unbonding(4_000, 4),) and chain.account(user).bonded == 6_000
    chain.append_epochs(3)
    assert "nothing has finished unbonding" in failure(chain, chain.withdraw(user))
    chain.append_epochs(1)
    assert chain.next_epoch == 4
    before = chain.account(user).available
    fee = do(chain, chain.withdraw(user))
    assert chain.account(user) == Account(nonce=4, available=before + 4_000 - fee, bonded=6_000)
    assert "nothing has finished unbonding" in failure(chain, chain.withdraw(user))


def test_unbondings_of_an_epoch_are_one() -> None:
    chain = Chain()
    user = chain.users[0]
    do(chain, chain.bond(user, 10_000), *[chain.unbond(user, 100, nonce=n) for n in range(1, 6)])
    assert chain.account(user).unbonding == (Unbonding(500, 4),)
    chain.append_epochs(1)
    do(chain, chain.unbond(user, 100))
    assert chain.account(user).unbonding == (Unbonding(500, 4), Unbonding(100, 5))
    chain.append_epochs(3)
    do(chain, chain.withdraw(user))
    assert chain.account(user).unbonding == (Unbonding(100, 5),)


def test_bonds_are_limited_to_what_there_is() -> None:
    chain = Chain()
    user = chain.users[0]
    assert "available" in failure(chain, chain.bond(user, 1_000_000))
    assert "0 bonded" in failure(chain, chain.unbond(user, 1))
    do(chain, chain.bond(user, 500))
    assert "501 micro-credits asked, 500 bonded" in failure(chain, chain.unbond(user, 501))
    do(chain, chain.unbond(user, 500))
    assert "0 bonded" in failure(chain, chain.unbond(user, 1))


def test_nothing_cannot_be_unbonded() -> None:
    """Or 32 entries of nothing would keep an account from ever unbonding again."""
    chain = Chain()
    assert "nothing to unbond" in failure(chain, chain.unbond(chain.users[0], 0))
    assert chain.account(chain.users[0]).unbonding == ()


def test_the_number_of_unbondings_is_bounded_and_recovers() -> None:
    chain = Chain(parameters=replace(PARAMETERS, epoch_heights=1, round_heights=1, unbonding_epochs=40))
    user = chain.users[0]
    do(chain, chain.bond(user, 1_000))
    for _ in range(MAX_UNBONDINGS):
        do(chain, chain.unbond(user, 1))
    assert "withdraw what is free" in failure(chain, chain.unbond(user, 1))
    chain.append_epochs(10)
    do(chain, chain.withdraw(user), chain.unbond(user, 1, nonce=chain.account(user).nonce + 1))
    assert len(chain.account(user).unbonding) <= MAX_UNBONDINGS


# Holds


def test_hold() -> None:
    chain = Chain()
    user = chain.users[0]
    signed = chain.hold(user, 0, amount=5_000)
    operation = signed.operation
    assert isinstance(operation, Hold)
    fee = do(chain, signed)
    assert chain.account(user) == Account(available=1_000_000 - 5_000 - fee, held=5_000)
    hold = chain.state.hold(chain.find_hold_id(user, 0))
    assert hold is not None and hold.unsettled_delivery is None
    assert (hold.payer, hold.payee, hold.amount) == (user.public_key, operation.payee, 5_000)
    assert (hold.model, hold.request_digest, hold.deadline) == (MODEL, operation.request_digest, operation.deadline)


def test_only_the_drawn_executor_can_be_paid() -> None:
    chain = Chain()
    user = chain.users[0]
    for attempt in range(3):
        drawn = chain.executor(user, 9, attempt).public_key
        for key in (*chain.validators, user, chain.users[1], STRANGER):
            if key.public_key != drawn:
                reason = refusal(chain, chain.hold(user, 9, attempt, payee=key.public_key))
                assert f"not number {attempt} of the lottery" in reason
    assert len({chain.executor(user, 9, attempt).public_key for attempt in range(3)}) == 3
    do(chain, *[chain.hold(user, 9, attempt) for attempt in range(3)])


def test_no_payer_draws_itself() -> None:
    chain = Chain()
    payer = chain.validators[0]
    for seq in range(10):
        assert "not number" in refusal(chain, chain.hold(payer, seq, payee=payer.public_key))
    do(chain, *[chain.hold(payer, seq) for seq in range(10)])


def test_no_draw_beyond_those_who_serve() -> None:
    chain = Chain(2, 1)
    do(chain, chain.hold(chain.users[0], 0, 1))
    assert "not number 2" in refusal(chain, chain.hold(chain.users[0], 0, 2, payee=chain.validators[0].public_key))
    assert "not number 1" in refusal(chain, chain.hold(chain.validators[0], 0, 1, payee=chain.validators[1].public_key))
    assert "not number 0" in refusal(
        chain, chain.hold(chain.users[0], 1, model="x", payee=chain.validators[0].public_key)
    )


@pytest.mark.parametrize("attempt", [3, 4, 8, 255, 2**40])
def test_attempts_are_limited(attempt: int) -> None:
    chain = Chain()
    hold = chain.hold(chain.users[0], 0, attempt, payee=chain.validators[0].public_key)
    # The fee grows with the attempt: a mad one is too dear before it is too late.
    assert ("the fee is" if attempt > 10_000 else "beyond the 3 allowed") in refusal(chain, hold)


def test_a_hold_is_made_once() -> None:
    chain = Chain()
    user = chain.users[0]
    hold = chain.hold(user, 0)
    assert "is used" in refusal(chain, hold, hold)
    do(chain, hold)
    delivery = chain.delivery(user, 0)
    assert "is used" in refusal(chain, hold)
    assert "is used" in refusal(chain, chain.hold(user, 0, amount=101))
    do(chain, chain.capture(chain.executor(user, 0), chain.receipt(user, delivery)))
    assert "is used" in refusal(chain, chain.hold(user, 0)), "nor after it was resolved"
    do(chain, chain.hold(user, 0, 1), chain.hold(chain.users[1], 0))


def test_holds_come_in_any_order_within_the_window() -> None:
    chain = Chain(available=10_000_000)
    user = chain.users[0]
    do(chain, *[chain.hold(user, seq, amount=100) for seq in (5, 3, 255, 0, 4)])
    assert "window" in refusal(chain, chain.hold(user, 256 + REPLAY_WINDOW_SIZE))
    do(chain, chain.hold(user, 255 + REPLAY_WINDOW_SIZE))
    assert "window" in refusal(chain, chain.hold(user, 255)), "used, and about to leave the window"
    assert "window" in refusal(chain, chain.hold(user, 254)), "never used, but too old"
    do(chain, *[chain.hold(user, seq, amount=100) for seq in (256, 257, 510)])


def test_a_hold_locks_up_the_price_of_a_request_at_least() -> None:
    """Or open holds, which take room in the state until they are released, would cost nothing but a fee."""
    chain = Chain()
    user = chain.users[0]
    assert "less than the 100 of any request" in refusal(chain, chain.hold(user, 0, amount=99))
    do(chain, chain.hold(user, 0, amount=100))


def test_a_hold_is_paid_from_what_is_available() -> None:
    chain = Chain()
    user = chain.users[0]
    fee = compute_fee(chain.genesis, chain.hold(user, 0, amount=990_000))
    assert "available" in refusal(chain, chain.hold(user, 0, amount=1_000_000 - fee + 1))
    assert chain.account(user) == Account(available=1_000_000), "and a hold that is refused costs nothing"
    do(chain, chain.hold(user, 0, amount=1_000_000 - fee))
    assert chain.account(user) == Account(available=0, held=1_000_000 - fee)
    assert "the fee is" in refusal(chain, chain.transfer(user, chain.users[1], 1))


def test_two_holds_of_the_same_credit() -> None:
    chain = Chain(available=8_000)
    user = chain.users[0]
    assert "available" in refusal(chain, chain.hold(user, 0, amount=5_000), chain.hold(user, 1, amount=5_000))


def test_deadlines_of_holds_lie_ahead_within_the_limit() -> None:
    chain = Chain()
    user = chain.users[0]
    chain.append()
    for lifetime in (-1_000, 0, 1_000):  # the block will be at 1,000
        assert "deadline" in refusal(chain, chain.hold(user, 0, lifetime=lifetime))
    assert "deadline" in refusal(chain, chain.hold(user, 0, lifetime=21_001))
    do(chain, chain.hold(user, 0, lifetime=1_001))
    do(chain, chain.hold(user, 1, lifetime=21_000))


def test_a_hold_draws_from_this_period_or_for_one_round_from_the_last() -> None:
    chain = Chain()
    user = chain.users[0]
    anyone = chain.validators[0].public_key
    do(chain, chain.bond(chain.validators[0], 1))  # in round 0: another period begins with round 2
    assert "round 2" in refusal(chain, chain.hold(user, 0, first_round=2, payee=anyone))
    chain.append()
    chain.append()
    assert "round 1" in refusal(chain, chain.hold(user, 0, first_round=1, payee=anyone)), "none begins there"
    first = chain.hold(user, 0, lifetime=10_000)
    assert "round 2" in refusal(chain, chain.hold(user, 0, first_round=2, payee=anyone)), "its source is not known"
    chain.append()
    assert chain.first_round == 2
    do(chain, first, chain.hold(user, 1, first_round=0))
    do(chain, chain.hold(user, 2, first_round=0), chain.hold(user, 3))
    assert "round 0" in refusal(chain, chain.hold(user, 4, first_round=0, payee=anyone))
    do(chain, chain.hold(user, 4))


@pytest.mark.parametrize("named", [["b", "a"], ["a", "a"], ["a", "c"]])
def test_identities_are_of_models_that_are_served_one_of_each_in_order(named: list[str]) -> None:
    chain = Chain()
    user = chain.users[0]
    identities = tuple(DeclaredIdentity(model, bytes(32)) for model in named)
    assert "identities must be sorted" in refusal(chain, chain.serve(user, "a", "b", identities=identities))


def test_an_identity_stands_with_the_account_and_in_the_table() -> None:
    chain = Chain()
    validator = chain.validators[0]
    identities = (DeclaredIdentity(MODEL, crypto.hash_bytes("weights")),)
    do(chain, chain.serve(validator, MODEL, identities=identities))
    do(chain, chain.bond(validator, 5), chain.transfer(validator, chain.users[0], 0, nonce=2))
    assert chain.account(validator).identities == identities, "whatever else the account does"
    while chain.head.height < 3 * PARAMETERS.round_heights:
        chain.append()
    table = chain.state.serving_table(chain.state.serving_periods.current.first_round)
    assert table is not None
    declared = {entry.public_key: entry.identities for entry in table.entries}
    assert declared == {key.public_key: identities if key == validator else () for key in chain.validators}


def test_an_empty_list_of_models_leaves_the_draw_at_once() -> None:
    chain = Chain()
    user = chain.users[0]
    drawn = chain.executor(user, 0)
    leave = chain.serve(drawn)
    assert "left the lottery" in refusal(chain, leave, chain.hold(user, 0))
    do(chain, leave)
    assert chain.executor(user, 0) is drawn, "the frozen table still has it"
    assert "left the lottery" in refusal(chain, chain.hold(user, 0))
    do(chain, chain.hold(user, 0, 1))
    do(chain, chain.serve(drawn, MODEL))
    do(chain, chain.hold(user, 0))


def test_who_bonds_too_little_is_not_drawn() -> None:
    dear = replace(PARAMETERS, min_service_bond=2_000, newcomer_share=0)
    chain = Chain(3, 1, stakes=[100_000, 1_999, 100_000], parameters=dear)
    small = chain.validators[1].public_key
    for seq in range(10):
        assert small not in {chain.executor(chain.users[0], seq, attempt).public_key for attempt in range(2)}
        assert "not number 2" in refusal(chain, chain.hold(chain.users[0], seq, 2, payee=small))


# Captures


def count_queued(chain: Chain) -> int:
    """Captures that wait for their settlement."""
    return sum(isinstance(leaf.record, DueCaptures) for leaf in chain.state.entries())


def held(amount: int = 5_000, **kwargs: int) -> tuple[Chain, KeyPair, KeyPair]:
    """A chain with a hold 0 of ``amount`` that user 0 made; the user and the executor."""
    chain = Chain(**kwargs)  # type: ignore[arg-type]
    user = chain.users[0]
    payee = chain.executor(user, 0)
    do(chain, chain.hold(user, 0, amount=amount))
    return chain, user, payee


def test_capture_with_a_receipt_pays_at_once() -> None:
    chain, user, payee = held()
    before, earner = chain.account(user), chain.account(payee)
    fee = do(chain, chain.capture(payee, chain.receipt(user, chain.delivery(user, 0, amount=3_000))))
    assert chain.account(user) == replace(before, held=0, available=before.available + 2_000)
    assert chain.account(payee) == replace(earner, available=earner.available + 3_000 - fee)
    assert chain.state.hold(chain.find_hold_id(user, 0)) is None


def test_a_hold_resolves_once() -> None:
    chain, user, payee = held()
    paid = chain.receipt(user, chain.delivery(user, 0, amount=3_000))
    capture = chain.capture(payee, paid)
    assert "no open hold" in refusal(chain, capture, capture)
    do(chain, capture)
    for again in (
        capture,
        chain.capture(payee, chain.delivery(user, 0, amount=0)),
        chain.sign(user, Dispute(chain.find_hold_id(user, 0))),
        chain.sign(user, Release(chain.find_hold_id(user, 0))),
    ):
        assert "no open hold" in refusal(chain, again, elapsed=60_000)


def test_capture_without_a_receipt_pays_after_the_grace_time() -> None:
    chain, user, payee = held()  # chain time 1,000
    before, earner = chain.account(user), chain.account(payee)
    fee = do(chain, chain.capture(payee, chain.delivery(user, 0, amount=3_000)))  # at 2,000, due at 5,000
    hold = chain.state.hold(chain.find_hold_id(user, 0))
    assert hold is not None and hold.unsettled_delivery is not None and hold.unsettled_delivery.amount == 3_000
    assert chain.state.due_captures(0) == DueCaptures(5_000, (chain.find_hold_id(user, 0),))
    assert chain.account(user) == before
    chain.append(elapsed=2_999)
    assert chain.state.hold(chain.find_hold_id(user, 0)) == hold
    chain.append(elapsed=1)
    assert chain.head.chain_time == 5_000
    assert chain.state.hold(chain.find_hold_id(user, 0)) is None and count_queued(chain) == 0
    assert chain.account(payee) == replace(earner, available=earner.available + 3_000 - fee)
    assert chain.account(user) == replace(before, held=0, available=before.available + 2_000)


def test_grace_ends_at_the_millisecond_and_not_before() -> None:
    chain, user, payee = held()
    do(chain, chain.capture(payee, chain.delivery(user, 0, amount=3_000)), elapsed=1_501)  # at 2,501, due at 5,501
    chain.append(elapsed=2_999)
    assert chain.state.hold(chain.find_hold_id(user, 0)) is not None
    chain.append(elapsed=1)
    assert chain.state.hold(chain.find_hold_id(user, 0)) is None


def test_captures_of_many_blocks_fall_due_in_one() -> None:
    chain = Chain()
    user = chain.users[0]
    payees = []
    for seq in range(6):
        payees.append(chain.executor(user, seq))
        do(chain, chain.hold(user, seq, amount=1_000 + seq), elapsed=100)
    for seq in range(6):
        do(chain, chain.capture(payees[seq], chain.delivery(user, seq, amount=500 + seq)), elapsed=499)
    assert chain.account(user).held == sum(range(1_000, 1_006))
    chain.append(elapsed=10**9)  # a halt: chain time goes on by one beat only, which is enough here
    assert chain.account(user).held == 0
    assert count_queued(chain) == 0 and chain.state.get(SETTLEMENTS_KEY) is None
    assert compute_supply(chain.state) == chain.genesis.supply


def make_queue(max_settlements: int, sizes: Sequence[int]) -> tuple[Chain, KeyPair, list[list[int]]]:
    """A chain in which captures of so many holds each of user 0 wait; the user, and the holds' numbers by capture."""
    chain = Chain(parameters=replace(PARAMETERS, max_settlements=max_settlements))
    user = chain.users[0]
    left = dict.fromkeys(range(30))
    payees = {seq: chain.executor(user, seq) for seq in left}
    do(chain, *[chain.hold(user, seq, lifetime=20_000) for seq in left])
    captures = []
    for size in sizes:
        payee = next(key for key in chain.validators if sum(payees[seq] is key for seq in left) >= size)
        captures.append([seq for seq in left if payees[seq] is payee][:size])
        for seq in captures[-1]:
            del left[seq]
    do(chain, *[chain.capture(payees[seqs[0]], *[chain.delivery(user, seq) for seq in seqs]) for seqs in captures])
    return chain, user, captures


def find_open(chain: Chain, user: KeyPair, captures: list[list[int]]) -> list[int]:
    """Of each capture, how many of its holds are open."""
    return [sum(chain.state.hold(chain.find_hold_id(user, seq)) is not None for seq in seqs) for seqs in captures]


def test_a_block_settles_a_bounded_number_of_captures_and_leaves_the_rest_in_their_order() -> None:
    chain, user, captures = make_queue(3, [2, 2, 2, 3, 1, 1])
    expected = [[0, 0, 2, 3, 1, 1], [0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0]]
    for opened in expected:  # a capture is settled whole: it begins while fewer than three holds were taken
        chain.append(elapsed=10_000 if opened is expected[0] else 1)
        assert find_open(chain, user, captures) == opened
    assert count_queued(chain) == 0 and chain.state.get(SETTLEMENTS_KEY) is None
    assert compute_supply(chain.state) == chain.genesis.supply


def test_a_capture_that_waits_for_its_turn_may_still_be_disputed() -> None:
    chain, user, captures = make_queue(2, [1, 1, 1, 1, 1, 1])
    chain.append(elapsed=10_000)
    assert find_open(chain, user, captures) == [0, 0, 1, 1, 1, 1]
    treasury = chain.state.totals.treasury
    disputed = [chain.find_hold_id(user, captures[number][0]) for number in (3, 4)]
    fee = do(chain, *[chain.sign(user, Dispute(hold_id)) for hold_id in disputed], elapsed=1)
    assert chain.state.totals.treasury == treasury + fee + 2 * (2 * 1_000)
    assert find_open(chain, user, captures) == [0, 0, 0, 0, 0, 1], "what was disputed takes its place all the same"
    chain.append(elapsed=1)
    assert count_queued(chain) == 0


def test_a_capture_made_while_others_wait_comes_after_them() -> None:
    chain, user, captures = make_queue(1, [1, 1, 1])
    late = next(seq for seq in range(30) if [seq] not in captures)
    hold = chain.state.hold(chain.find_hold_id(user, late))
    assert hold is not None
    do(chain, chain.capture(chain.keys[hold.payee], chain.delivery(user, late)), elapsed=2_999)
    for opened in ([0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]):
        chain.append(elapsed=1)
        assert find_open(chain, user, [*captures, [late]]) == opened
    for elapsed, opened in ((2_996, [1]), (1, [0])):
        chain.append(elapsed=elapsed)
        assert find_open(chain, user, [[late]]) == opened


def test_deadlines_count_in_chain_time() -> None:
    """A halt of days between two blocks is one idle beat to the hold."""
    chain, user, _ = held()  # deadline at 10,000, made at 1,000
    release = chain.sign(chain.users[1], Release(chain.find_hold_id(user, 0)))
    assert "has not passed" in refusal(chain, release, elapsed=9_000)
    chain.append(elapsed=4_000)
    chain.append(elapsed=1)
    assert chain.head.chain_time == 5_001
    _, _, rejected = chain.propose([release], elapsed=5 * 86_400_000)
    assert not rejected  # 15,001 by now
    assert "has not passed" in refusal(chain, release, elapsed=4_999)


def test_a_capture_of_nothing_is_a_refund() -> None:
    chain, user, payee = held()
    before, earner = chain.account(user), chain.account(payee)
    fee = do(chain, chain.capture(payee, chain.delivery(user, 0, amount=0)))
    assert chain.account(user) == replace(before, held=0, available=before.available + 5_000)
    assert chain.account(payee) == replace(earner, available=earner.available - fee)


def test_a_capture_is_within_hold_and_price() -> None:
    chain, user, payee = held(amount=5_000)
    delivery = chain.delivery(user, 0, amount=5_001)
    assert "more than the hold of 5000" in refusal(chain, chain.capture(payee, chain.receipt(user, delivery)))
    for usage, price in ((Usage(0, 0), 100), (Usage(7, 0), 107), (Usage(7, 3), 137)):  # 100 + 1 a byte + 10 a token
        above = replace(delivery, amount=price + 1, usage=usage)
        assert f"the price of {price}" in refusal(chain, chain.capture(payee, chain.receipt(user, above)))
        _, _, rejected = chain.propose([chain.capture(payee, chain.receipt(user, replace(above, amount=price)))])
        assert not rejected
    huge = replace(delivery, amount=5_000, usage=Usage(2**63 - 1, 2**63 - 1))
    do(chain, chain.capture(payee, chain.receipt(user, huge)))


def test_a_model_may_have_its_own_price() -> None:
    parameters = replace(PARAMETERS, model_prices=(ModelPrice(MODEL, Price(2_000, 0, 0)),))
    chain = Chain(parameters=parameters)
    user = chain.users[0]
    do(chain, chain.hold(user, 0))
    delivery = replace(chain.delivery(user, 0, amount=2_001), usage=Usage(9_999, 9_999))
    payee = chain.executor(user, 0)
    assert "the price of 2000" in refusal(chain, chain.capture(payee, chain.receipt(user, delivery)))


def test_only_the_payee_captures() -> None:
    chain, user, payee = held()
    item = chain.receipt(user, chain.delivery(user, 0))
    for key in (*chain.validators, *chain.users):
        if key is not payee:
            assert "only the payee" in refusal(chain, chain.capture(key, item))


def test_receipts_are_the_payers_and_for_that_very_delivery() -> None:
    chain, user, payee = held()
    do(chain, chain.hold(user, 1), chain.hold(user, 0, 1))
    delivery = chain.delivery(user, 0, amount=1_000)
    receipt = chain.receipt(user, delivery).receipt
    assert receipt is not None
    forged = [
        chain.receipt(payee, delivery).receipt,  # by the payee
        chain.receipt(chain.users[1], delivery).receipt,  # by another user
        chain.receipt(user, chain.delivery(user, 1, amount=1_000)).receipt,  # for another hold
        chain.receipt(user, chain.delivery(user, 0, 1, amount=1_000)).receipt,  # for another attempt
        chain.receipt(user, replace(delivery, amount=999)).receipt,  # for less
        chain.receipt(user, replace(delivery, finish_reason="length")).receipt,
        chain.receipt(user, replace(delivery, usage=Usage(5_000, 0))).receipt,
        user.sign("operation", chain.genesis.chain_id, delivery.encode()),  # in another domain
        user.sign("delivery", chain.genesis.chain_id, delivery.encode()),
        user.sign("receipt", Chain(name="other").genesis.chain_id, delivery.encode()),  # on another chain
        bytes(64),
    ]
    for signature in forged:
        assert signature != receipt
        item = CaptureItem(delivery, signature)
        assert "receipt is not the payer's" in refusal(chain, chain.capture(payee, item))
        # A forged receipt is refused even where none is needed.
        nothing = CaptureItem(replace(delivery, amount=0), signature)
        assert "receipt is not the payer's" in refusal(chain, chain.capture(payee, nothing))
    do(chain, chain.capture(payee, CaptureItem(delivery, receipt)))


def test_a_capture_is_all_or_nothing() -> None:
    chain = Chain()
    user = chain.users[0]
    payee = chain.executor(user, 0)
    mine = [seq for seq in range(60) if chain.executor(user, seq) is payee][:3]
    do(chain, *[chain.hold(user, seq) for seq in mine[:2]])
    good = [chain.receipt(user, chain.delivery(user, seq, amount=2_000)) for seq in mine]
    assert "no open hold" in refusal(chain, chain.capture(payee, *good))
    before = chain.account(payee)
    fee = do(chain, chain.capture(payee, *good[:2]))
    assert chain.account(payee) == replace(before, available=before.available + 4_000 - fee)


def test_a_capture_is_captured_once() -> None:
    chain, user, payee = held()
    delivery = chain.delivery(user, 0, amount=3_000)
    do(chain, chain.capture(payee, delivery), elapsed=8_900)  # at 9,900, shortly before the deadline
    for item in (delivery, chain.receipt(user, delivery), replace(delivery, amount=0)):
        assert "captured already" in refusal(chain, chain.capture(payee, item))
    assert "captured already" in refusal(chain, chain.sign(user, Release(chain.find_hold_id(user, 0))), elapsed=200)


def test_the_fee_of_a_capture_comes_out_of_what_it_captures() -> None:
    """A payee with nothing else can still be paid; one whose answer is worth less than the fee cannot."""
    chain = Chain(available=2_000)
    user, other = chain.users
    payee = chain.executor(user, 0)
    do(chain, chain.hold(user, 0, amount=1_000), exact_transfer(chain, payee))
    assert chain.account(payee).available == 0
    item = chain.receipt(user, chain.delivery(user, 0, amount=1_000))
    assert "the fee is" in refusal(chain, chain.capture(payee, chain.delivery(user, 0, amount=10)))
    assert "the fee is" in refusal(chain, chain.capture(payee, chain.receipt(user, chain.delivery(user, 0, amount=10))))
    fee = do(chain, chain.capture(payee, item))
    assert chain.account(payee).available == 1_000 - fee > 0
    assert other.public_key in chain.keys


def poor_payee(amounts: Sequence[int], *, left: int = 0) -> tuple[Chain, KeyPair, KeyPair, list[int]]:
    """User 0, a payee that has ``left`` available, and the numbers of the holds of ``amounts`` for it."""
    chain = Chain(validators=2)
    user, payee = chain.users[0], chain.validators[1]
    seqs = [seq for seq in range(99) if chain.executor(user, seq) is payee][: len(amounts)]
    assert len(seqs) == len(amounts)
    do(chain, *[chain.hold(user, seq, amount=amount) for seq, amount in zip(seqs, amounts, strict=True)])
    do(chain, exact_transfer(chain, payee, left))
    return chain, user, payee, seqs


def test_a_payee_that_has_nothing_captures_without_a_receipt() -> None:
    """The payer may be gone: what a newcomer is owed pays for asking for it."""
    chain, user, payee, (seq,) = poor_payee([5_000], left=100)
    before, treasury, bonded = chain.account(user), chain.state.totals.treasury, chain.account(payee).bonded
    fee = do(chain, chain.capture(payee, chain.delivery(user, seq, amount=3_000)))
    owed = fee - 100
    hold = chain.state.hold(chain.find_hold_id(user, seq))
    assert hold is not None and hold.unsettled_delivery is not None and owed > 0
    assert (hold.amount, hold.unsettled_delivery.amount) == (5_000 - owed, 3_000 - owed)
    assert chain.account(user) == replace(before, held=before.held - owed)
    assert chain.account(payee).available == 0 and chain.state.totals.treasury == treasury + fee
    chain.append(elapsed=10_000)
    assert chain.account(payee) == replace(chain.account(payee), available=3_000 - owed, bonded=bonded)
    assert chain.account(user) == replace(before, held=0, available=before.available + 2_000)
    assert compute_supply(chain.state) == chain.genesis.supply


def test_a_dispute_of_such_a_capture_takes_what_is_left_of_it() -> None:
    chain, user, payee, (seq,) = poor_payee([5_000])
    before, treasury, bonded = chain.account(user), chain.state.totals.treasury, chain.account(payee).bonded
    fees = do(chain, chain.capture(payee, chain.delivery(user, seq, amount=3_000)))
    assert chain.account(payee).locked == 3_000 - fees
    fees_of_user = do(chain, chain.sign(user, Dispute(chain.find_hold_id(user, seq))))
    assert chain.account(user) == replace(before, held=0, available=before.available + 2_000 - fees_of_user)
    assert (chain.account(payee).bonded, chain.account(payee).locked) == (bonded - (3_000 - fees), 0)
    assert chain.state.totals.treasury == treasury + 2 * 3_000 - fees + fees_of_user and fees < 3_000


def test_a_payee_that_has_nothing_gives_a_hold_back() -> None:
    """Or its payer would wait for the deadline, and pay for a release."""
    chain, user, payee, (seq,) = poor_payee([5_000])
    before, treasury = chain.account(user), chain.state.totals.treasury
    fee = do(chain, chain.capture(payee, chain.delivery(user, seq, amount=0)))
    assert chain.account(user) == replace(before, held=0, available=before.available + 5_000 - fee)
    assert chain.account(payee).available == 0 and chain.state.totals.treasury == treasury + fee
    assert chain.state.hold(chain.find_hold_id(user, seq)) is None


def test_a_payee_that_has_nothing_gives_many_holds_back_and_each_pays_as_much() -> None:
    """But for one that has less."""
    chain, user, payee, seqs = poor_payee([1_000, 100, 1_000, 1_000])
    other, mine = chain.users[1], next(seq for seq in range(99) if chain.executor(chain.users[1], seq) is payee)
    do(chain, chain.hold(other, mine))
    before, another = chain.account(user), chain.account(other)
    items = [chain.delivery(user, seq, amount=0) for seq in seqs]
    fee = do(chain, chain.capture(payee, *items, chain.delivery(other, mine, amount=0)))
    first = -(-fee // 5)
    rest = fee - first - 100
    assert first > 100 and chain.account(other).available == another.available + 5_000 - rest // 3
    assert chain.account(user) == replace(before, held=0, available=before.available + 3_100 - (fee - rest // 3))
    assert compute_supply(chain.state) == chain.genesis.supply


def test_the_fee_of_a_capture_comes_out_of_the_payees_share_first() -> None:
    """Of several items: what waits, in order, then what was given back; and of no account more than there is."""
    chain, user, payee, (gone, small, large) = poor_payee([1_000, 1_000, 1_000])
    before = chain.account(user)
    items = [chain.delivery(user, seq, amount=amount) for seq, amount in ((gone, 0), (small, 100), (large, 120))]
    assert "more than is available" in refusal(chain, chain.capture(payee, *items[1:]))
    fee = do(chain, chain.capture(payee, *items))
    holds = [chain.state.hold(chain.find_hold_id(user, seq)) for seq in (gone, small, large)]
    assert holds[0] is None and fee > 220
    assert [
        hold and hold.unsettled_delivery and (hold.amount, hold.unsettled_delivery.amount) for hold in holds[1:]
    ] == [(900, 0), (880, 0)]
    assert chain.account(user) == replace(
        before, held=before.held - 1_220, available=before.available + 1_000 - (fee - 220)
    )
    chain.append(elapsed=10_000)
    assert chain.account(user).held == 0 and compute_supply(chain.state) == chain.genesis.supply


# Disputes and releases


def test_a_dispute_sends_the_capture_to_the_treasury_and_as_much_of_the_bond() -> None:
    chain, user, payee = held()
    do(chain, chain.capture(payee, chain.delivery(user, 0, amount=3_000)))
    before, earner, treasury = chain.account(user), chain.account(payee), chain.state.totals.treasury
    fee = do(chain, chain.sign(user, Dispute(chain.find_hold_id(user, 0))))
    assert chain.account(user) == replace(before, held=0, available=before.available + 2_000 - fee)
    earner = replace(earner, bonded=earner.bonded - 3_000, locked=0)
    assert chain.account(payee) == earner
    assert chain.state.totals.treasury == treasury + 2 * 3_000 + fee
    assert chain.state.hold(chain.find_hold_id(user, 0)) is None
    chain.append(elapsed=10_000)  # what stood on the agenda is passed over
    assert chain.account(payee) == earner and compute_supply(chain.state) == chain.genesis.supply


@pytest.mark.parametrize("amount", [5_000, 4_990, 1_000])
@pytest.mark.parametrize("left", [0, 50, 1_000])
def test_a_payer_that_has_nothing_left_disputes_all_the_same(amount: int, left: int) -> None:
    """Out of what comes back of the hold, and then of what the treasury gets of it anyway."""
    chain, user, payee = held()
    do(chain, chain.capture(payee, chain.delivery(user, 0, amount=amount)), exact_transfer(chain, user, left))
    before, earner, treasury = chain.account(user), chain.account(payee), chain.state.totals.treasury
    assert before.available == left
    dispute = chain.sign(user, Dispute(chain.find_hold_id(user, 0)))
    assert chain.genesis.parameters.deposit_per_byte == 0 and compute_fee(chain.genesis, dispute) > 50
    chain.append([dispute])
    paid = min(compute_fee(chain.genesis, dispute), left + 5_000 - amount)
    assert chain.account(user) == replace(before, held=0, available=left + 5_000 - amount - paid)
    assert chain.account(payee) == replace(earner, bonded=earner.bonded - amount, locked=0)
    assert chain.state.totals.treasury == treasury + 2 * amount + paid
    assert compute_supply(chain.state) == chain.genesis.supply


def test_a_dispute_of_less_than_its_fee_needs_credit() -> None:
    chain, user, payee = held(amount=120)
    do(chain, chain.capture(payee, chain.delivery(user, 0, amount=120)), exact_transfer(chain, user, 10))
    assert "130 are available and disputed" in refusal(chain, chain.sign(user, Dispute(chain.find_hold_id(user, 0))))


def test_disputes_are_the_payers_and_against_a_pending_capture() -> None:
    chain, user, payee = held()
    dispute = chain.sign(user, Dispute(chain.find_hold_id(user, 0)))
    assert "nothing was captured" in refusal(chain, dispute)
    do(chain, chain.capture(payee, chain.delivery(user, 0, amount=3_000)))
    for key in (payee, chain.users[1]):
        assert "only the payer" in refusal(chain, chain.sign(key, Dispute(chain.find_hold_id(user, 0))))
    assert "no open hold" in refusal(chain, chain.sign(user, Dispute(chain.find_hold_id(user, 1))))
    do(chain, dispute, elapsed=2_999)


@pytest.mark.parametrize("grace", [1, 3_000, 10_000])
def test_a_dispute_is_in_time_in_the_next_block_whatever_its_time(grace: int) -> None:
    """Chain time may grow by more than the grace time in one block; what falls due is paid after the operations."""
    chain = Chain(parameters=replace(PARAMETERS, capture_grace_ms=grace))
    user, payee = chain.users[0], chain.executor(chain.users[0], 0)
    do(chain, chain.hold(user, 0))
    earner = chain.account(payee)
    fee = do(chain, chain.capture(payee, chain.delivery(user, 0)))
    do(chain, chain.sign(user, Dispute(chain.find_hold_id(user, 0))), elapsed=60_000)
    bonded = earner.bonded - 1_000  # what was captured
    assert chain.account(payee) == replace(earner, available=earner.available - fee, bonded=bonded)


def test_after_the_grace_time_it_is_too_late_for_a_dispute() -> None:
    chain, user, payee = held()
    do(chain, chain.capture(payee, chain.delivery(user, 0, amount=3_000)))
    chain.append(elapsed=3_000)
    assert "no open hold" in refusal(chain, chain.sign(user, Dispute(chain.find_hold_id(user, 0))), elapsed=1)


def test_release_returns_a_hold_after_its_deadline() -> None:
    chain, user, payee = held()  # deadline at 10,000, made at 1,000
    release = chain.sign(chain.users[1], Release(chain.find_hold_id(user, 0)))
    before = chain.account(user)
    assert "has not passed" in refusal(chain, release, elapsed=9_000)
    fee = do(chain, release, elapsed=9_001)
    assert chain.account(user) == replace(before, held=0, available=before.available + 5_000)
    assert chain.account(chain.users[1]).available == 1_000_000 - fee
    item = chain.receipt(user, chain.delivery(user, 0))
    assert "no open hold" in refusal(chain, chain.capture(payee, item)), "no capture after the release"
    assert "no open hold" in refusal(chain, release)


def test_a_payee_may_capture_after_the_deadline_until_the_release() -> None:
    chain, user, payee = held()
    chain.append(elapsed=10_000)
    do(chain, chain.capture(payee, chain.receipt(user, chain.delivery(user, 0))))


def test_release_of_what_never_was() -> None:
    chain = Chain()
    assert "no open hold" in refusal(chain, chain.sign(chain.users[0], Release(bytes(32))))


def test_money_in_a_hold_cannot_be_spent_again() -> None:
    chain, user, _ = held(amount=990_000)
    assert "available" in failure(chain, chain.transfer(user, chain.users[1], 20_000))
    assert "available" in failure(chain, chain.bond(user, 20_000))
    assert "available" in refusal(chain, chain.hold(user, 1, amount=20_000))


def test_included_operations_without_nonce_leave_the_nonce_alone() -> None:
    chain, user, payee = held()
    do(chain, chain.capture(payee, chain.receipt(user, chain.delivery(user, 0))), chain.transfer(user, payee, 1))
    assert chain.account(user).nonce == 1 and chain.account(payee).nonce == 0
    assert isinstance(chain.blocks[-1].body.operations[0].operation, Capture)


# What attackers would like to be cheap


def test_a_capture_that_waits_for_a_hold_costs_no_signature_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried after every final block without paying: sixty-three receipts each time would be a free attack."""
    chain, user, payee = held()
    capture = chain.capture(payee, *[chain.receipt(user, chain.delivery(user, seq)) for seq in range(2)])

    def fail(claims: object) -> bool:
        pytest.fail("a receipt was checked")

    monkeypatch.setattr(crypto, "verify_all", fail)
    assert "no open hold" in refusal(chain, capture)


@pytest.mark.parametrize("lost", [1, 0])
def test_a_capture_that_cannot_pay_its_fee_costs_no_signature_checks(
    lost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its payee's own transfer before it in the block takes away what all its captures count on."""
    chain = Chain(available=20_000, stakes=[100_000, 1, 1, 1], parameters=replace(PARAMETERS, min_validator_bond=1))
    user, payee = chain.users[0], chain.validators[0]
    do(chain, *[chain.hold(user, seq, amount=100) for seq in range(4)])
    capture = chain.capture(payee, *[chain.receipt(user, chain.delivery(user, seq, amount=1)) for seq in range(4)])
    transfer = chain.transfer(payee, STRANGER, 0)
    rest = compute_fee(chain.genesis, capture) - 4  # what it captures goes into its fee
    amount = chain.account(payee).available - compute_fee(chain.genesis, transfer) - rest + lost
    transfer = chain.transfer(payee, user, amount)
    amount -= compute_fee(chain.genesis, transfer) - compute_fee(chain.genesis, chain.transfer(payee, STRANGER, 0))
    checked: list[object] = []
    monkeypatch.setattr(crypto, "verify_all", lambda claims: checked.append(claims) or True)
    _, _, rejected = chain.propose([chain.transfer(payee, user, amount), capture])
    assert (len(rejected), len(checked)) == ((1, 0) if lost else (0, 4))


def test_captures_stand_in_the_queue_in_their_order() -> None:
    chain = Chain()
    user = chain.users[0]
    payees = [chain.executor(user, seq) for seq in range(12)]
    do(chain, *[chain.hold(user, seq) for seq in range(12)])
    payee = payees[0]
    mine = [seq for seq in range(12) if payees[seq] is payee]
    assert len(mine) > 1
    do(chain, chain.capture(payee, *[chain.delivery(user, seq) for seq in mine]), elapsed=1_000)
    other = next(seq for seq in range(12) if seq not in mine)
    do(chain, chain.capture(payees[other], chain.delivery(user, other)), elapsed=1)
    do(chain, chain.sign(user, Dispute(chain.find_hold_id(user, mine[0]))), elapsed=1)
    assert [chain.state.due_captures(number) for number in range(3)] == [
        # Captured at 2,000, due 3 seconds later.
        DueCaptures(5_000, tuple(chain.find_hold_id(user, seq) for seq in mine)),
        DueCaptures(5_001, (chain.find_hold_id(user, other),)),
        None,
    ]
    assert chain.state.settlement_queue == SettlementQueue(0, 2)
    before = chain.account(payee).available
    chain.append(elapsed=2_998)
    assert chain.account(payee).available == before + 1_000 * (len(mine) - 1)
    assert chain.state.hold(chain.find_hold_id(user, other)) is not None
    assert chain.state.due_captures(0) is None and chain.state.settlement_queue == SettlementQueue(1, 2)
