"""The mempool: what it takes, in which order it gives it out, and that no account fills it at another's cost."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from chain.exceptions import CannotPay, InvalidNonce, InvalidOperation, InvalidSignature
from chain.genesis import Genesis, GenesisAccount, make_genesis, make_validator
from chain.parameters.parameters import CREDIT, Parameters
from chain.state.records import REPLAY_WINDOW_SIZE
from chain.transition.operations import process_operation
from chain.types.operations import (
    Capture,
    CaptureItem,
    Delivery,
    Dispute,
    Register,
    Release,
    Serve,
    SignedOperation,
    Transfer,
    Unbond,
    Usage,
    sign_operation,
)
from consensus.mempool.pool import (
    MAX_ACCOUNT_BYTES,
    MAX_NONCED,
    MAX_READY_BLOCKS,
    MAX_REJECTIONS,
    MAX_UNREADY_WAIT_S,
    MAX_WAITING_OPERATIONS,
    REVALIDATION_BUDGET,
    AlreadyKnown,
    Mempool,
    PoolFull,
)
from consensus.mempool.room import SMALL_ACCOUNT_BYTES
from tests.consensus.mempool.single_validator import GENESIS, MARKET, Chain, make_capture, make_hold
from tests.support.consensus_world import make_equal_genesis
from tests.support.keys import make_key


def transfer(
    sender: int, nonce: int, amount: int = 1, memo: bytes = b"", genesis: Genesis = GENESIS
) -> SignedOperation:
    return sign_operation(make_key(sender), genesis.chain_id, Transfer(nonce, make_key(2).public_key, amount, memo))


def make_pool(genesis: Genesis = GENESIS, **limits: int) -> Mempool:
    return Mempool(genesis, genesis.header, genesis.state, **limits)


def test_nonces_keep_their_order_whatever_the_order_of_arrival() -> None:
    pool = make_pool()
    operations = [transfer(1, nonce) for nonce in range(5)]
    for index in (3, 0, 4, 2):
        pool.add(operations[index], 0.0)
    assert pool.select(10**6) == operations[:1]
    assert pool.get_reason(operations[3].id) == "the operation with the nonce 1 is missing"
    pool.add(operations[1], 1.0)
    assert pool.select(10**6) == operations
    assert pool.get_reason(operations[3].id) is None


def test_a_gap_is_waited_for_and_then_given_up() -> None:
    pool = make_pool()
    pool.add(transfer(1, 1), 100.0)
    pool.expire(100.0 + MAX_UNREADY_WAIT_S - 0.1)
    assert len(pool) == 1 and not pool.has_ready()
    pool.expire(100.0 + MAX_UNREADY_WAIT_S)
    assert len(pool) == 0 and pool.size == 0


def test_a_gap_that_closes_in_time_is_forgotten() -> None:
    pool = make_pool()
    pool.add(transfer(1, 1), 100.0)
    pool.add(transfer(1, 0), 100.0 + MAX_UNREADY_WAIT_S - 1.0)
    pool.expire(1000.0)
    assert len(pool) == 2


def test_the_first_operation_of_a_nonce_wins() -> None:
    pool = make_pool()
    pool.add(transfer(1, 0, 5), 0.0)
    with pytest.raises(InvalidNonce, match="another operation with the nonce 0 is pending"):
        pool.add(transfer(1, 0, 6), 0.0)
    with pytest.raises(AlreadyKnown):
        pool.add(transfer(1, 0, 5), 0.0)


def test_limits_of_an_account() -> None:
    pool = make_pool()
    for nonce in range(MAX_NONCED):
        pool.add(transfer(1, nonce), 0.0)
    with pytest.raises(PoolFull, match="64 operations pending"):
        pool.add(transfer(1, MAX_NONCED), 0.0)
    pool.add(transfer(2, 0), 0.0)
    pool = make_pool()
    with pytest.raises(PoolFull, match=f"more than {MAX_ACCOUNT_BYTES} bytes"):
        for number in range(2048):
            pool.add(make_hold(number % REPLAY_WINDOW_SIZE, attempt=number // REPLAY_WINDOW_SIZE), 0.0)
    assert MAX_ACCOUNT_BYTES - 500 < pool.size <= MAX_ACCOUNT_BYTES


def test_the_fees_of_all_that_is_pending_must_be_payable() -> None:
    size = len(transfer(1, 0).encoded)
    accounts = [
        make_validator(make_key(1), bytes(32), Parameters(), CREDIT, 1_000 * CREDIT),
        GenesisAccount(make_key(3).public_key, 2 * size + 1, 0, (), None),
    ]
    genesis = make_genesis("poor", 0, bytes(32), accounts)
    pool = make_pool(genesis)
    operations = [transfer(3, nonce, genesis=genesis) for nonce in range(3)]
    pool.add(operations[0], 0.0)
    pool.add(operations[1], 0.0)
    with pytest.raises(CannotPay):
        pool.add(operations[2], 0.0)
    with pytest.raises(CannotPay):
        pool.add(transfer(4, 0, genesis=genesis), 0.0)


def test_fees_of_operations_with_a_nonce_may_come_out_of_the_bond() -> None:
    """Of an account with nothing available, as its income was bonded; a hold is paid from what is available alone."""
    poor = make_key(3)
    parameters = Parameters(deposit_per_byte=0)
    accounts = [
        make_validator(make_key(1), bytes(32), parameters, CREDIT, 1_000 * CREDIT),
        GenesisAccount(poor.public_key, 0, 250, (), None),
    ]
    genesis = make_genesis("bonded", 0, bytes(32), accounts, parameters)
    pool, chain = make_pool(genesis), Chain(genesis)
    operations = [sign_operation(poor, genesis.chain_id, Unbond(nonce, 10)) for nonce in range(3)]
    pool.add(operations[0], 0.0)
    pool.add(operations[1], 0.0)
    with pytest.raises(CannotPay, match="can pay them"):
        pool.add(operations[2], 0.0)
    with pytest.raises(CannotPay, match="0 are available"):
        pool.add(sign_operation(poor, genesis.chain_id, Release(bytes(32))), 0.0)
    assert pool.select(10**6) == operations[:2]
    chain.make_final(pool, operations[:1], 1.0)
    assert pool.is_ready(operations[1].id)


def test_what_became_final_leaves_with_what_it_made_impossible() -> None:
    pool, chain = make_pool(), Chain()
    pool.add(transfer(1, 0, 5), 0.0)
    pool.add(transfer(1, 1, 5), 0.0)
    pool.add(transfer(3, 0, 5), 0.0)
    chain.make_final(pool, [transfer(1, 0, 7), transfer(3, 0, 5)])
    assert [operation.operation for operation in pool.select(10**6)] == [transfer(1, 1, 5).operation]
    with pytest.raises(AlreadyKnown, match="final"):
        pool.add(transfer(3, 0, 5), 0.0)
    with pytest.raises(InvalidNonce, match="the nonce 0 is used, the account's next is 1"):
        pool.add(transfer(3, 0, 6), 0.0)


def test_only_the_very_signature_that_was_checked_counts_as_verified() -> None:
    pool = make_pool()
    operation = transfer(1, 0)
    pool.add(operation, 0.0)
    assert pool.is_verified(operation)
    assert not pool.is_verified(SignedOperation(operation.operation, operation.signer, bytes(64)))
    assert not pool.is_verified(transfer(1, 1))


def test_operations_of_blocks_under_way_are_no_work() -> None:
    pool = make_pool()
    first, second = transfer(1, 0), transfer(1, 1)
    pool.add(first, 0.0)
    assert pool.has_ready() and not pool.has_ready({first.id})
    pool.add(second, 0.0)
    assert pool.has_ready({first.id})
    assert pool.select(10**6, {first.id}) == [second]


def test_rejected_operations_wait_until_the_state_moves() -> None:
    pool, chain = make_pool(), Chain()
    operation = transfer(1, 0)
    pool.add(operation, 0.0)
    pool.reject(operation.id, "cannot be included", 1.0)
    assert not pool.has_ready() and pool.get_reason(operation.id) == "cannot be included"
    chain.make_final(pool, [transfer(3, 0)], 2.0)
    assert pool.select(10**6) == [operation]


# Holds and captures: operations without a nonce.


def test_a_capture_that_overtakes_its_hold_waits_for_it() -> None:
    pool, chain = make_pool(MARKET), Chain(MARKET)
    hold = make_hold(0, genesis=MARKET)
    capture = make_capture(hold, 100)
    pool.add(capture, 0.0)
    assert not pool.has_ready() and "no open hold" in (pool.get_reason(capture.id) or "")
    pool.add(hold, 0.0)
    assert pool.select(10**6) == [hold]
    chain.make_final(pool, [hold], 1.0)
    assert pool.select(10**6) == [capture]
    chain.make_final(pool, [capture], 2.0)
    assert len(pool) == 0


def test_a_used_hold_number_is_refused_and_a_rival_for_the_same_credit_waits() -> None:
    pool, chain = make_pool(MARKET), Chain(MARKET)
    first, second = (make_hold(seq, genesis=MARKET, amount=60 * CREDIT) for seq in (0, 1))
    pool.add(first, 0.0)
    pool.add(second, 0.0)
    assert pool.select(10**6) == [first] and "beside what is promised" in (pool.get_reason(second.id) or "")
    chain.make_final(pool, [first], 1.0)
    assert not pool.has_ready() and "available" in (pool.get_reason(second.id) or "")
    with pytest.raises(InvalidOperation, match="hold 0/0 is used or too old"):
        pool.add(make_hold(0, genesis=MARKET, amount=1), 2.0)
    pool.expire(MAX_UNREADY_WAIT_S)
    assert len(pool) == 0


def test_holds_do_not_queue_behind_the_transfers_of_their_account() -> None:
    pool = make_pool(MARKET)
    for nonce in range(20):
        pool.add(transfer(3, nonce, genesis=MARKET), 0.0)
    hold = make_hold(0, genesis=MARKET)
    pool.add(hold, 0.0)
    assert pool.select(10**6)[1] == hold


def test_waiting_operations_are_bounded() -> None:
    genesis = make_equal_genesis(1, others=60)
    pool = make_pool(genesis)
    count = 0
    for sender in range(1, 61):
        for nonce in range(1, MAX_NONCED):
            pool.add(transfer(sender, nonce, genesis=genesis), 0.0)
            count += 1
    assert count > MAX_WAITING_OPERATIONS and len(pool) == MAX_WAITING_OPERATIONS


def test_the_first_hold_of_a_number_wins_and_one_that_lost_is_dropped() -> None:
    pool, chain = make_pool(MARKET), Chain(MARKET)
    first, rival = (make_hold(0, genesis=MARKET, amount=amount) for amount in (2_000, 3_000))
    pool.add(first, 0.0)
    with pytest.raises(InvalidOperation, match="asks for the same"):
        pool.add(rival, 0.0)
    chain.make_final(pool, [rival], 1.0)
    assert len(pool) == 0 and pool.size == 0


def test_a_hold_is_captured_by_one_pending_operation_unless_that_waits() -> None:
    pool, chain = make_pool(MARKET), Chain(MARKET)
    hold = make_hold(0, genesis=MARKET)
    pool.add(make_capture(hold, 100), 0.0)  # waits for its hold
    pool.add(make_capture(hold, 200), 0.0)
    assert len(pool) == 1
    chain.make_final(pool, [hold], 1.0)
    assert [signed.operation for signed in pool.select(10**6)] == [make_capture(hold, 200).operation]
    with pytest.raises(InvalidOperation, match="asks for the same"):
        pool.add(make_capture(hold, 300), 1.0)


def test_a_capture_with_a_forged_receipt_is_refused_at_once_or_as_soon_as_it_shows() -> None:
    pool, chain = make_pool(MARKET), Chain(MARKET)
    hold = make_hold(0, genesis=MARKET)
    capture = make_capture(hold, 100)
    assert isinstance(capture.operation, Capture)
    items = (CaptureItem(capture.operation.items[0].delivery, bytes(64)),)
    key = next(make_key(n) for n in (1, 2, 3) if make_key(n).public_key == capture.signer)
    forged = sign_operation(key, MARKET.chain_id, Capture(items))
    pool.add(forged, 0.0)  # whose receipt it would be is not known yet
    chain.make_final(pool, [hold], 1.0)
    assert len(pool) == 0
    with pytest.raises(InvalidSignature):
        pool.add(forged, 1.0)
    assert len(pool) == 0 and pool.size == 0


def test_who_owns_nothing_captures_only_what_is_there() -> None:
    pool = make_pool(MARKET)
    item = CaptureItem(Delivery(bytes(32), 1, bytes(32), Usage(1, 1), "stop"), None)
    with pytest.raises(CannotPay, match="the account owns 0"):
        pool.add(sign_operation(make_key(77), MARKET.chain_id, Capture((item,))), 0.0)
    pool.add(sign_operation(make_key(2), MARKET.chain_id, Capture((item,))), 0.0)


def test_the_work_after_a_block_does_not_grow_with_what_is_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that touches an account with hundreds of holds, and captures that wait, judges only a few of them."""
    pool, chain = make_pool(MARKET), Chain(MARKET)
    for seq in range(REPLAY_WINDOW_SIZE):
        for attempt in range(2):
            pool.add(make_hold(seq, genesis=MARKET, attempt=attempt), 0.0)
    for number in range(500):
        item = CaptureItem(Delivery(number.to_bytes(32, "big"), 1, bytes(32), Usage(1, 1), "stop"), None)
        pool.add(sign_operation(make_key(2), MARKET.chain_id, Capture((item,))), 0.0)
    judged: list[SignedOperation] = []

    def judge(*arguments: Any) -> None:
        judged.append(arguments[2])
        process_operation(*arguments)

    monkeypatch.setattr("consensus.mempool.pool.process_operation", judge)
    chain.make_final(pool, [transfer(3, 0, genesis=MARKET), transfer(2, 0, genesis=MARKET)], 1.0)
    assert len(judged) <= REVALIDATION_BUDGET + REVALIDATION_BUDGET // 16
    for now in range(2, 8):
        pool.expire(float(now))  # the rest, bit by bit
    assert {signed.id for signed in judged if isinstance(signed.operation, Capture)} >= set(pool._waiting)


def test_a_hold_that_cannot_be_paid_any_more_is_not_ready() -> None:
    pool, chain = make_pool(MARKET), Chain(MARKET)
    holds = [make_hold(seq, genesis=MARKET, amount=30 * CREDIT) for seq in range(3)]
    for hold in holds:
        pool.add(hold, 0.0)
    assert pool.select(10**6) == holds
    chain.make_final(pool, [transfer(3, 0, amount=50 * CREDIT, genesis=MARKET)], 1.0)
    assert pool.select(10**6) == holds[:1]
    chain.make_final(pool, [transfer(2, 0, genesis=MARKET)], 2.0)
    assert pool.select(10**6) == holds[:1] and len(pool) == 3


def test_what_proposers_reject_again_and_again_is_dropped() -> None:
    pool, chain = make_pool(), Chain()
    pool.add(transfer(1, 0), 0.0)
    pool.add(transfer(1, 1), 0.0)
    for number in range(MAX_REJECTIONS):
        assert len(pool) == 2 and pool.has_ready()
        pool.reject(transfer(1, 0).id, "no", 1.0)
        assert not pool.has_ready()  # nor what comes after it
        chain.make_final(pool, [transfer(3, number)], 1.0)
    assert transfer(1, 0).id not in pool and not pool.has_ready()


def test_what_no_block_includes_is_dropped_after_many_blocks_but_not_in_a_halt() -> None:
    pool, chain = make_pool(), Chain()
    pool.add(transfer(1, 0), 0.0)
    pool.expire(10_000.0)
    for _ in range(MAX_READY_BLOCKS):
        chain.make_final(pool, [], 10_000.0)
        assert len(pool) == 1
    chain.make_final(pool, [], 10_000.0)
    assert len(pool) == 0


# Fairness.


def test_a_flood_by_one_account_costs_others_one_place_each() -> None:
    pool = make_pool()
    flood = [transfer(1, nonce) for nonce in range(MAX_NONCED)]
    for operation in flood:
        pool.add(operation, 0.0)
    honest = [transfer(sender, 0) for sender in range(2, 10)]
    for operation in honest:
        pool.add(operation, 1.0)
    assert pool.select(10**6) == [flood[0], *honest, *flood[1:]]
    size = len(flood[0].encoded)
    assert set(honest) <= set(pool.select(9 * size + 10))


def test_turns_are_of_equal_bytes() -> None:
    pool = make_pool()
    small = [transfer(1, nonce) for nonce in range(8)]
    large = [transfer(2, nonce, memo=bytes(64)) for nonce in range(8)]
    for operation in [*large, *small]:
        pool.add(operation, 0.0)
    half = sum(len(operation.encoded) for operation in [*small, *large]) // 2
    chosen = pool.select(half)
    sizes = [sum(len(o.encoded) for o in chosen if o in line) for line in (small, large)]
    assert abs(sizes[0] - sizes[1]) <= len(large[0].encoded)


def test_the_heaviest_account_makes_room_in_a_full_pool() -> None:
    size = len(transfer(1, 0).encoded)
    pool = make_pool(max_bytes=20 * size)
    flood = [transfer(1, nonce) for nonce in range(20)]
    for operation in flood:
        pool.add(operation, 0.0)
    with pytest.raises(PoolFull, match="the pool is full"):
        pool.add(transfer(1, 20), 0.0)
    honest = [transfer(sender, 0) for sender in range(2, 10)]
    for operation in honest:
        pool.add(operation, 0.0)
    assert all(operation.id in pool for operation in [*honest, *flood[:12]])
    assert pool.size == 20 * size and len(pool) == 20
    pool.remove(honest[0].id)
    pool.add(flood[12], 0.0)  # dropped before, and the next in line again
    assert flood[12] in pool.select(10**6)


def test_accounts_with_little_pending_keep_a_share_of_a_pool_that_the_wealthy_fill() -> None:
    """Account 1 owns a hundred thousand times as much as accounts 2 and 3, which have one operation and then many."""
    parameters = Parameters(min_validator_bond=100 * CREDIT)
    accounts = [make_validator(make_key(1), bytes(32), parameters, 10**5 * CREDIT, 100 * CREDIT)]
    accounts += [GenesisAccount(make_key(number).public_key, CREDIT, 0, (), None) for number in (2, 3)]
    genesis = make_genesis("wealth", 1, bytes(32), accounts, parameters)

    def sign(number: int, nonce: int, models: int) -> SignedOperation:
        names = tuple(sorted(f"{index:02}{'x' * 120}" for index in range(models)))
        return sign_operation(make_key(number), genesis.chain_id, Serve(nonce, names))

    pool = make_pool(genesis, max_bytes=8 * SMALL_ACCOUNT_BYTES)
    flood = [sign(1, nonce, 16) for nonce in range(MAX_NONCED)]

    def refill() -> None:
        for operation in flood:
            with suppress(InvalidOperation):
                pool.add(operation, 0.0)

    refill()
    newcomer = sign(2, 0, 1)
    pool.add(newcomer, 0.0)
    refill()
    assert newcomer.id in pool and pool.size <= 8 * SMALL_ACCOUNT_BYTES
    pool.add(sign(3, 0, 16), 0.0)
    pool.add(sign(3, 1, 12), 0.0)
    refill()  # the share is a little exceeded now, and that of least credit makes room again
    with pytest.raises(PoolFull, match="the pool is full"):
        pool.add(sign(3, 2, 16), 0.0)  # no longer little
    assert newcomer.id in pool


class Flood(RuleBasedStateMachine):
    """Random traffic: the bounds hold, the order is lawful, and an honest account loses nothing to the others."""

    MAX_BYTES = 5_000

    @initialize()
    def begin(self) -> None:
        self.chain = Chain()
        self.pool = make_pool(max_bytes=self.MAX_BYTES, max_operations=60)
        self.now = 0.0
        self.honest: list[SignedOperation] = []
        self.final: set[bytes] = set()
        self.next_honest = 0

    @rule(sender=st.integers(3, 5), first=st.integers(0, 20), count=st.integers(1, 15), amount=st.integers(1, 3))
    def flood(self, sender: int, first: int, count: int, amount: int) -> None:
        for nonce in range(first, first + count):
            operation = transfer(sender, nonce, amount)
            before = self.pool.size
            try:
                self.pool.add(operation, self.now)
            except InvalidOperation:
                assert self.pool.size == before
            else:
                assert operation.id in self.pool

    @rule()
    def send_honestly(self) -> None:
        # Weights are compared in powers of two: an account with a quarter of the heaviest one's bytes is always heard.
        if len([operation for operation in self.honest if operation.id not in self.final]) < 2:
            operation = transfer(2, self.next_honest)
            self.next_honest += 1
            self.pool.add(operation, self.now)  # never refused
            self.honest.append(operation)

    @rule(max_bytes=st.integers(0, 3_000))
    def make_block(self, max_bytes: int) -> None:
        chosen = self.pool.select(max_bytes)
        assert sum(len(operation.encoded) for operation in chosen) <= max_bytes
        block = self.chain.make_final(self.pool, chosen, self.now)
        assert list(block.body.operations) == chosen  # everything selected can be included
        self.final.update(operation.id for operation in chosen)

    @rule(seconds=st.floats(0.0, 20.0))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.pool.expire(self.now)

    @invariant()
    def is_bounded(self) -> None:
        assert self.pool.size <= self.MAX_BYTES and len(self.pool) <= 60
        selected = self.pool.select(10**6)
        assert self.pool.has_ready() == bool(selected)
        for sender in range(2, 6):
            mine = [o.operation for o in selected if o.signer == make_key(sender).public_key]
            nonces = [operation.nonce for operation in mine if isinstance(operation, Transfer)]
            start = self.chain.state.account(make_key(sender).public_key).nonce
            assert nonces == list(range(start, start + len(nonces)))

    @invariant()
    def honest_operations_are_never_lost(self) -> None:
        assert all(operation.id in self.pool or operation.id in self.final for operation in self.honest)


TestFlood = Flood.TestCase


@given(st.permutations(range(12)))
def test_what_is_ready_does_not_depend_on_the_order_of_arrival(order: Sequence[int]) -> None:
    pool = make_pool()
    operations = [transfer(1 + index % 3, index // 3) for index in range(12)]
    for index in order:
        pool.add(operations[index], 0.0)
    assert set(pool.select(10**6)) == set(operations)


def test_a_release_before_its_time_waits() -> None:
    pool = make_pool()
    operation = sign_operation(make_key(3), GENESIS.chain_id, Release(bytes(32)))
    pool.add(operation, 0.0)
    assert not pool.has_ready() and "no open hold" in (pool.get_reason(operation.id) or "")


def test_a_proof_of_work_that_was_checked_is_never_checked_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take the event loop some 20 ms, at its admission and whenever it is looked at again."""
    parameters = replace(GENESIS.parameters, register_grant=1_000, register_cap=10, register_difficulty=8)
    genesis, key = replace(GENESIS, parameters=parameters), make_key(77)
    pool = Mempool(genesis, genesis.header, genesis.state)
    monkeypatch.setattr(
        "chain.transition.validators.registration.is_valid_proof_of_work",
        lambda *_: pytest.fail("checked a proof of work"),
    )
    operation = sign_operation(key, genesis.chain_id, Register(0, bytes(16), ()))
    pool.add(operation, 0.0, is_proven=True)
    assert pool.is_ready(operation.id)
    for second in range(60):
        pool.expire(float(second))
    assert pool.is_ready(operation.id)


def test_a_dispute_is_taken_from_an_account_that_has_nothing_available() -> None:
    """But it owns the hold: one that owns nothing at all is refused."""
    pool, chain = make_pool(MARKET), Chain(MARKET)
    hold = make_hold(0, genesis=MARKET)
    chain.make_final(pool, [hold], 1.0)
    chain.make_final(pool, [make_capture(hold, 100)], 2.0)
    payer = make_key(3)
    available = chain.state.account(payer.public_key).available
    chain.make_final(pool, [transfer(3, 0, available - 200, genesis=MARKET)], 3.0)
    dispute = sign_operation(payer, MARKET.chain_id, Dispute(hold.id))
    assert chain.state.account(payer.public_key).available < len(dispute.encoded)
    pool.add(dispute, 3.0)
    assert pool.select(10**6) == [dispute]
    with pytest.raises(CannotPay, match="owns 0"):
        pool.add(sign_operation(make_key("stranger"), MARKET.chain_id, Dispute(hold.id)), 3.0)
