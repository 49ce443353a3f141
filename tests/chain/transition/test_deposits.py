"""What hold numbers cost that a payer leaves out: a deposit while they may still be used, which is lost after that."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.crypto import KeyPair
from chain.state.records import REPLAY_WINDOW_SIZE, Account, ReplayWindow
from chain.state.state import StateOverlay
from chain.transition.deposits import compute_deposit, compute_deposit_growth, update_deposit
from tests.support.chain_builder import PARAMETERS, Chain, do, refusal

FEE = 100
RULES = replace(PARAMETERS, unused_number_fee=FEE)


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
