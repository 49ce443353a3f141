"""Deposits: for hold numbers that a payer leaves out, lost if they are never used, and for room in the state."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.crypto import KeyPair
from chain.state.records import REPLAY_WINDOW_SIZE, Account, ReplayWindow
from chain.state.state import StateOverlay
from chain.transition.deposits import (
    compute_deposit,
    compute_deposit_growth,
    compute_hold_deposit,
    compute_least_unbonding,
    compute_models_deposit,
    update_deposit,
)
from chain.types.checks import DeclaredIdentity
from chain.types.operations import Dispute, Release
from tests.support.chain_builder import MODEL, PARAMETERS, Chain, do, failure, refusal

FEE = 100
RULES = replace(PARAMETERS, unused_number_fee=FEE)
ROOM_RULES = replace(RULES, deposit_per_byte=2)
HOLD_DEPOSIT = compute_hold_deposit(ROOM_RULES)


def make_chain(available: int = 1_000_000) -> tuple[Chain, KeyPair]:
    chain = Chain(parameters=RULES, available=available)
    return chain, chain.users[0]


@pytest.mark.parametrize(("unused", "deposit"), [(0, 0), (1, 101), (2, 206), (64, 64 * 200), (256, 256 * 500)])
def test_the_deposit_rises_with_the_share_of_unused_numbers(unused: int, deposit: int) -> None:
    assert compute_deposit(RULES, unused) == deposit


def test_consecutive_numbers_need_no_deposit() -> None:
    chain, payer = make_chain()
    for seq in range(4):
        do(chain, chain.hold(payer, seq), chain.hold(payer, seq, 1))
        assert chain.account(payer).deposit == 0


def test_numbers_left_out_keep_a_deposit_until_they_are_used() -> None:
    chain, payer = make_chain()
    fees = do(chain, chain.hold(payer, 3, amount=1_000))
    assert chain.account(payer) == Account(
        available=1_000_000 - 1_000 - fees - compute_deposit(RULES, 3), held=1_000, deposit=compute_deposit(RULES, 3)
    )
    for left, seq in ((2, 1), (1, 0), (0, 2)):
        fees += do(chain, chain.hold(payer, seq, amount=1_000))
        assert chain.account(payer).deposit == compute_deposit(RULES, left)
    assert chain.account(payer) == Account(available=1_000_000 - 4_000 - fees, held=4_000)
    do(chain, chain.hold(payer, 1, 1))
    assert chain.account(payer).deposit == 0, "a second attempt under a number returns nothing more"


def test_holds_on_their_way_at_the_same_time_become_final_in_any_order() -> None:
    chain, payer = make_chain()
    for seq in (5, 1, 3, 0, 4, 2):
        do(chain, chain.hold(payer, seq, amount=1_000))
    assert chain.account(payer).deposit == 0 and chain.state.totals.treasury == sum(
        1_000_000 - 6_000 - account.available for account in (chain.account(payer),)
    )


def test_numbers_that_leave_the_window_unused_are_lost() -> None:
    chain, payer = make_chain()
    do(chain, chain.hold(payer, 3, amount=1_000))  # 0, 1 and 2 are left out
    before, treasury = chain.account(payer), chain.state.totals.treasury
    fee = do(chain, chain.hold(payer, REPLAY_WINDOW_SIZE + 1, amount=1_000))  # 0 and 1 leave, and 4 to 256 are new
    unused = 1 + REPLAY_WINDOW_SIZE + 1 - 4
    lost = compute_deposit(RULES, 3) - compute_deposit(RULES, 1)
    after = chain.account(payer)
    assert after.deposit == compute_deposit(RULES, unused)
    assert after.available == before.available - 1_000 - fee - (after.deposit - compute_deposit(RULES, 1))
    assert chain.state.totals.treasury == treasury + fee + lost


def test_a_deposit_that_the_payer_cannot_pay_keeps_the_hold_out() -> None:
    chain, payer = make_chain(available=6_000)
    assert "the deposit for hold numbers that were left out is" in refusal(chain, chain.hold(payer, 60, amount=1_000))
    do(chain, chain.hold(payer, 3, amount=1_000))


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(-256, 255), st.integers(0, 2)), max_size=120), st.sets(st.integers(0, 200)))
def test_the_deposit_is_always_that_of_the_window(steps: list[tuple[int, int]], more: set[int]) -> None:
    """And what was paid in and not lost is there; nothing is made by leaving numbers out."""
    chain, payer = make_chain(available=10**9)
    key, overlay, window = payer.public_key, StateOverlay(chain.state), ReplayWindow()
    for distance, attempt in steps:
        seq = window.top + distance
        if seq < 0 or not window.is_usable(seq, attempt):
            continue
        after = window.use(seq, attempt)
        update_deposit(overlay, RULES, key, window, after)
        window, account = after, overlay.account(key)
        assert account.deposit == compute_deposit(RULES, window.unused)
        assert account.available + account.deposit + overlay.totals.treasury == 10**9
    for order in (sorted(more), sorted(more, reverse=True)):
        growth = compute_deposit_growth(RULES, window, {seq for seq in more if seq < window.top + REPLAY_WINDOW_SIZE})
        ahead, before = window, overlay.account(key).deposit
        if all(seq < window.top + REPLAY_WINDOW_SIZE for seq in more):
            for seq in order:
                ahead = ahead.use(seq, 0) if ahead.is_usable(seq, 0) else ahead
            assert compute_deposit(RULES, ahead.unused) - before <= growth


def make_room_chain(available: int = 1_000_000) -> tuple[Chain, KeyPair]:
    chain = Chain(parameters=ROOM_RULES, available=available)
    return chain, chain.users[0]


def test_models_keep_a_deposit_by_the_length_of_their_names_while_they_are_served() -> None:
    chain, user = make_room_chain()
    fees = do(chain, chain.serve(user, "a", "b" * 128))
    assert compute_models_deposit(ROOM_RULES, ("a", "b" * 128)) == 2 * (2 * 448 + 2 * 129) == 2_308
    assert chain.account(user).deposit == 2_308 and chain.account(user).available == 1_000_000 - fees - 2_308
    fees += do(chain, chain.serve(user, "b" * 127))
    assert chain.account(user).deposit == 2 * (448 + 2 * 127)
    fees += do(chain, chain.serve(user))
    assert chain.account(user) == Account(nonce=3, available=1_000_000 - fees)


def test_models_fail_whose_deposit_is_not_available() -> None:
    chain, user = make_room_chain(available=2_000)
    expected = "the deposit for models grows by 3716 micro-credits"
    assert expected in failure(chain, chain.serve(user, "a", *(letter * 128 for letter in "bc")))
    do(chain, chain.serve(user, "a"))
    assert chain.account(user).deposit == 900


def test_the_deposits_of_models_and_of_hold_numbers_are_kept_apart() -> None:
    chain, user = make_room_chain()
    do(chain, chain.serve(user, "a"), chain.hold(user, 3))
    numbers = compute_deposit(RULES, 3)
    assert chain.account(user).deposit == 900 + numbers
    do(chain, chain.serve(user, "a", "b"), chain.hold(user, 1))
    assert chain.account(user).deposit == 2 * 900 + compute_deposit(RULES, 2)
    do(chain, chain.serve(user))
    assert chain.account(user).deposit == compute_deposit(RULES, 2)


def test_an_identity_keeps_the_deposit_of_a_model() -> None:
    chain, user = make_room_chain()
    identity = DeclaredIdentity("b", bytes(32))
    fees = do(chain, chain.serve(user, "a", "b", identities=(identity,)))
    assert chain.account(user).deposit == 3 * 900
    fees += do(chain, chain.serve(user))
    assert chain.account(user) == Account(nonce=2, available=1_000_000 - fees)


def test_models_of_the_genesis_get_a_deposit_with_the_first_change() -> None:
    chain, _ = make_room_chain()
    validator = chain.validators[0]
    assert chain.account(validator).models == (MODEL,) and chain.account(validator).deposit == 0
    do(chain, chain.serve(validator, MODEL))
    assert chain.account(validator).deposit == compute_models_deposit(ROOM_RULES, (MODEL,))
    do(chain, chain.serve(validator))
    assert chain.account(validator).deposit == 0
    do(chain, chain.serve(chain.validators[1]))
    assert chain.account(chain.validators[1]).deposit == 0, "what was never left does not come back"


def test_a_hold_keeps_a_deposit_until_it_is_resolved_in_whatever_way() -> None:
    chain, payer = make_room_chain()
    fees = do(chain, *(chain.hold(payer, seq, lifetime=5_000) for seq in range(5)))
    assert chain.account(payer).held == 5 * (5_000 + HOLD_DEPOSIT)
    payees = [chain.executor(payer, seq) for seq in range(5)]
    receipt = chain.receipt(payer, chain.delivery(payer, 0))
    do(chain, chain.capture(payees[0], receipt), chain.capture(payees[1], chain.delivery(payer, 1, amount=0)))
    assert chain.account(payer).held == 3 * (5_000 + HOLD_DEPOSIT)
    do(chain, *(chain.capture(payees[seq], chain.delivery(payer, seq)) for seq in (2, 3)))
    assert chain.account(payer).held == 3 * (5_000 + HOLD_DEPOSIT), "a capture that waits is room too"
    fees += do(chain, chain.sign(payer, Dispute(chain.find_hold_id(payer, 3))))
    assert chain.account(payer).held == 2 * (5_000 + HOLD_DEPOSIT)
    do(chain, elapsed=RULES.capture_grace_ms)
    assert chain.account(payer).held == 5_000 + HOLD_DEPOSIT
    fees += do(chain, chain.sign(payer, Release(chain.find_hold_id(payer, 4))), elapsed=5_000)
    assert chain.account(payer).available == 1_000_000 - fees - 3 * 1_000 and chain.account(payer).held == 0


def test_a_hold_whose_deposit_is_not_available_cannot_be_included() -> None:
    chain, payer = make_room_chain(available=5_000 + HOLD_DEPOSIT)
    assert "the amount and the deposit for the hold are 9800 micro-credits" in refusal(chain, chain.hold(payer, 0))
    do(chain, chain.hold(payer, 0, amount=4_000))


def test_a_new_unbonding_entry_is_no_less_than_its_deposit() -> None:
    chain, user = make_room_chain()
    least = compute_least_unbonding(ROOM_RULES)
    do(chain, chain.bond(user, 10_000))
    assert f"less than the {least} of a new entry" in failure(chain, chain.unbond(user, least - 1))
    do(chain, chain.unbond(user, least))
    do(chain, chain.unbond(user, 1))
    assert [part.amount for part in chain.account(user).unbonding] == [least + 1], "more in an entry takes no room"
    chain.append_epochs(1)
    assert f"less than the {least} of a new entry" in failure(chain, chain.unbond(user, 1))
