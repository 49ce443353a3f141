"""Payments: never more promised than there is, no number used twice, nothing left open."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from chain.parameters.parameters import CREDIT
from chain.store.layout import MAX_CAPTURE_PREFIX, SET_ASIDE_KEY, encode_number
from chain.transition.deposits import compute_deposit
from chain.transition.fees import compute_fee
from chain.types.operations import (
    Capture,
    Delivery,
    Dispute,
    Hold,
    Operation,
    Release,
    Usage,
    sign_operation,
)
from serving.accounting.hold_numbers import AHEAD, MAX_SET_ASIDE, TooManyPayments
from serving.accounting.payee import REFUND_GATHER_S
from serving.accounting.payer import CannotAfford
from serving.accounting.payment_history import FIRST_REFUNDS
from serving.accounting.submitter import Submitter
from serving.offload.settings import ExecutorSettings, OriginatorSettings
from tests.support.market.offers_by_hand import make_hold, sign_hold_by_hand
from tests.support.market.scripted_backend import Script
from tests.support.market_world import Options, Result, World, ask, get_script, make_request, simulate
from tests.support.waiting import eventually

PRICE = 1_000 + 3 * len(make_request().body) + 5 * 8 * 100
"""What a hold for one request of the tests amounts to."""
FEE = 400
"""More than the fee of a hold."""
SHORT_HOLD_S = 120
"""Seconds for which the holds are good of tests that wait for their deadline; refunds are gathered for half of that."""


def make_short_hold(world: World, payer: int, **changes: int) -> Hold:
    """A hold that nobody offers."""
    deadline = world.gateway.engine.chain_time() + 1_000 * SHORT_HOLD_S
    return make_hold(world, payer, b"x", bytes(16), deadline=deadline, **changes)


async def ask_many(world: World, count: int) -> list[Result]:
    results: list[Result] = []

    async def send() -> None:
        results.append(await ask(world.gateway))

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(send)
    return results


def test_an_account_that_cannot_pay_gets_402() -> None:
    async def play(world: World) -> None:
        result = await ask(world.gateway)
        assert result.error is not None and result.error.status == 402
        assert result.error.code == "insufficient_quota" and "available" in result.error.message
        assert world.operations(Hold) == []
        await world.settle()

    simulate(play, Options(available={0: PRICE - 1}))


def test_an_account_that_can_pay_all_but_the_fee_gets_402() -> None:
    async def play(world: World) -> None:
        result = await ask(world.gateway)
        assert result.error is not None and result.error.status == 402
        await world.settle()
        assert all(member.backend is None or not member.backend.running for member in world.members)

    simulate(play, Options(available={0: PRICE + 1}))


@pytest.mark.parametrize(("more", "status"), [(5_000 - 100, 402), (5_000 + FEE, None)])
def test_the_first_payment_of_an_account_costs_the_entry_of_its_numbers(more: int, status: int | None) -> None:
    async def play(world: World) -> None:
        result = await ask(world.gateway)
        assert (None if result.error is None else result.error.status) == status
        await world.settle()
        assert len(world.operations(Hold)) == (status is None)

    simulate(play, Options(available={0: PRICE + more}, parameters={"entry_fee": 5_000}))


@pytest.mark.parametrize(("more", "status"), [(2_400 - 100, 402), (2_400 + FEE, None)])
def test_a_payment_needs_the_deposit_of_its_hold(more: int, status: int | None) -> None:
    async def play(world: World) -> None:
        result = await ask(world.gateway)
        assert (None if result.error is None else result.error.status) == status
        await world.settle()
        assert len(world.operations(Hold)) == (status is None) and world.account(0).held == 0
        assert world.gateway.payments.payer.finality_times.count == (status is None)

    simulate(play, Options(available={0: PRICE + more}, parameters={"deposit_per_byte": 1}))


def test_a_node_that_cannot_pay_serves_itself_if_it_has_the_model() -> None:
    async def play(world: World) -> None:
        own = world.members[0].backend
        assert own is not None
        own.utilization = 0.9
        assert (await ask(world.gateway)).executor is None
        assert own.completed == 1

    simulate(play, Options(own_backend=True, available={0: 10}))


def test_requests_at_once_never_promise_more_than_there_is() -> None:
    async def play(world: World) -> None:
        world.introduce()
        for member in world.members[1:]:
            assert member.backend is not None
            member.backend.script = Script(first_delay=3.0)
        results = await ask_many(world, 12)
        refused = [result.error.status for result in results if result.error is not None]
        served = [result for result in results if result.error is None]
        assert len(served) == 5 and len(refused) == 7
        assert set(refused) <= {402, 503}, "this node sees that it cannot pay, or the executors do before it"
        assert all(result.status == 200 and result.broken is None for result in served)
        await world.settle()
        assert len(world.operations(Hold)) == 5

    parameters = {"unused_number_fee": 0}  # or the numbers of requests that are refused would cost as much again
    simulate(play, Options(available={0: 5 * (PRICE + FEE) + 100}, capacity=20, parameters=parameters))


def test_what_is_promised_is_not_spendable_until_it_is_captured_for_less() -> None:
    async def play(world: World) -> None:
        first = world.drawn()[0]
        assert first.backend is not None
        first.backend.script.first_delay = 3.0
        payments = world.gateway.payments
        before = payments.payer.spendable
        assert before == 1_000 * CREDIT
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, world.gateway)
            for _ in range(20):  # promised first, then held by the ledger
                await trio.sleep(0.1)
                if payments.payer._unconfirmed_holds or world.open_holds():
                    assert before - PRICE - FEE <= payments.payer.spendable < before - PRICE
        await world.settle()
        assert payments.payer.spendable == world.account(0).available > before - PRICE

    simulate(play)


def test_many_more_requests_at_once_than_hold_numbers_are_refused_cleanly() -> None:
    async def play(world: World) -> None:
        world.introduce()
        for member in world.members[1:]:
            assert member.backend is not None
            member.backend.script = Script(first_delay=5.0)
        results = await ask_many(world, 300)
        statuses = sorted(result.error.status if result.error is not None else result.status for result in results)
        assert statuses == [200] * AHEAD + [503] * (300 - AHEAD)
        busy = [result.error.message for result in results if result.error is not None]
        assert all("waiting to become final" in message for message in busy)
        await world.settle()
        seqs = [(hold.seq, hold.attempt) for hold in world.operations(Hold)]
        assert len(seqs) == len(set(seqs)) == AHEAD
        # And it goes on from there.
        assert (await ask(world.gateway)).status == 200
        await world.settle()

    # Nothing becomes final while the requests begin, nor while they wait for a number.
    simulate(play, Options(capacity=400, executors=4, spacing=8.0))


def test_the_highest_final_number_is_that_of_the_latest_state() -> None:
    async def play(world: World) -> None:
        payer, engine, key = world.gateway.payments.payer, world.gateway.engine, world.members[0].public_key
        found = []
        for _ in range(5):
            assert (await ask(world.gateway)).status == 200
            assert payer._top == engine.state.replay_window(key).top
            await world.settle()
            assert payer._top == engine.state.replay_window(key).top
            found.append(payer._top)
        assert found == sorted(set(found)), "it grew with each payment"

    simulate(play)


def test_an_honest_payer_forfeits_nothing() -> None:
    """With requests at once, some of them declined by all, in any order, and a restart in between."""

    async def play(world: World) -> None:
        async def send(delay: float) -> None:
            await trio.sleep(delay)
            await ask(world.members[1].node)

        for _ in range(2):
            for _ in range(5):
                async with trio.open_nursery() as nursery:
                    for number in range(24):
                        nursery.start_soon(send, number % 5 * 0.1)
            await world.settle()
            await world.kill(1)
            await world.start(1)
            await world.wait_met()
        for _ in range(60):  # what was declined is used before it leaves the window
            await ask(world.members[1].node)
        await world.settle()
        window = world.gateway.engine.state.replay_window(world.members[1].public_key)
        assert window.top > 256 and window.unused <= MAX_SET_ASIDE
        deposit = compute_deposit(world.genesis.parameters, window.unused)
        payer = world.account(1)
        assert payer.deposit == deposit and payer.total + sum(fees(world)) == 1_100 * CREDIT

    def fees(world: World) -> list[int]:
        """What the payer paid for its holds and for answers, in micro-credits."""
        me, store = world.members[1].public_key, world.gateway.engine._store
        blocks = [store.block(height) for height in range(1, store.height + 1)]
        signed = [each for block in blocks if block is not None for each in block.body.operations]
        paid = [compute_fee(world.genesis, each) for each in signed if each.signer == me]
        return [*paid, *(item.delivery.amount for item in world.captured)]

    simulate(play, Options(gateways=(0, 1), executors=3, capacity=2))


def test_hold_numbers_are_not_used_again_after_a_restart() -> None:
    async def play(world: World) -> None:
        seen: set[int] = set()
        for round_ in range(3):
            # The voter is away: nothing becomes final, so the ledger does not know of these holds.
            await world.kill(0)
            member = world.members[1]
            payments = member.node.payments
            seqs = [payments.payer.take_seq() for _ in range(10)]
            assert not seen & set(seqs)
            seen |= set(seqs)
            signed = [payments.payer.sign_hold(make_hold(world, 1, b"x", bytes(16), seq=seq)) for seq in seqs]
            await world.kill(1)
            await world.start(1)
            assert member.node.payments.payer.next_seq > max(seen)
            await world.start(0)
            # One of them was on its way, and becomes final only now.
            late = signed[round_]
            await world.gateway.engine.submit(late)
            await world.gateway.engine.wait_final(late.id, 30)
            await world.wait_met()

    simulate(play, Options(gateways=(0, 1)))


def test_numbers_that_are_set_aside_for_the_next_start_are_forgotten_when_a_hold_is_signed() -> None:
    """Or a start after a crash would sign under them again."""

    async def play(world: World) -> None:
        member = world.members[1]

        def sign(seq: int) -> None:
            member.node.payments.payer.sign_hold(make_hold(world, 1, b"x", bytes(16), seq=seq))

        payer = member.node.payments.payer
        first, second, third = (payer.take_seq() for _ in range(3))
        payer.give_back(first)
        sign(third)
        await world.kill(1)
        await world.start(1)
        await world.wait_met()
        payer = member.node.payments.payer
        assert member.store.get(SET_ASIDE_KEY) == encode_number(first) + encode_number(second)
        sign(payer.take_seq())
        assert member.store.get(SET_ASIDE_KEY) is None
        payer.close()
        assert member.store.get(SET_ASIDE_KEY) == encode_number(first) + encode_number(second)
        sign(first)  # by a request that is cancelled a moment later
        assert member.store.get(SET_ASIDE_KEY) is None

    simulate(play, Options(gateways=(0, 1)))


def test_hold_numbers() -> None:
    async def play(world: World) -> None:
        payments = world.gateway.payments
        first = payments.payer.next_seq
        taken = [payments.payer.take_seq() for _ in range(AHEAD)]
        assert taken == list(range(first, first + AHEAD))
        with pytest.raises(TooManyPayments):
            payments.payer.take_seq()
        for seq in taken[3:5]:
            payments.payer.give_back(seq)
            payments.payer.give_back(seq)
        assert [payments.payer.take_seq(), payments.payer.take_seq()] == taken[3:5]
        with pytest.raises(TooManyPayments):
            payments.payer.take_seq()
        waited = [trio.current_time()]
        await payments.payer.wait_for_number(1.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(payments.payer.wait_for_number, 5.0)
            await trio.sleep(0.5)
            payments.payer.give_back(taken[3])
        waited.append(trio.current_time())
        assert waited[1] - waited[0] == pytest.approx(1.5), "as long as it says, or until one is free"
        await payments.payer.wait_for_number(5.0)
        assert trio.current_time() == waited[1] and payments.payer.take_seq() == taken[3]
        # A number under which a hold was signed is gone for good.
        hold = make_hold(world, 0, b"x", bytes(16), seq=taken[7])
        payments.payer.sign_hold(hold)
        payments.payer.give_back(taken[7])
        with pytest.raises(TooManyPayments):
            payments.payer.take_seq()

    simulate(play)


def test_a_hold_that_never_comes_counts_until_its_deadline() -> None:
    async def play(world: World) -> None:
        payments = world.gateway.payments
        hold = make_short_hold(world, 0, amount=600 * CREDIT)
        payments.payer.sign_hold(hold)
        with pytest.raises(CannotAfford):
            payments.payer.sign_hold(make_short_hold(world, 0, amount=600 * CREDIT, seq=hold.seq + 1))
        await trio.sleep(SHORT_HOLD_S - 20)
        assert payments.payer.spendable < 400 * CREDIT
        await trio.sleep(50)
        assert payments.payer.spendable == 1_000 * CREDIT

    simulate(play)


def test_a_hold_that_was_never_offered_costs_the_executor_nothing_and_returns_after_its_deadline() -> None:
    async def play(world: World) -> None:
        before = [world.account(number).total for number in (1, 2)]
        hold = make_short_hold(world, 0)
        await world.gateway.engine.submit(sign_operation(world.members[0].key, world.genesis.chain_id, hold))
        await eventually(lambda: world.open_holds())
        await trio.sleep(SHORT_HOLD_S - 20)
        assert len(world.open_holds()) == 1
        await world.settle(100)
        assert world.captured == [] and len(world.operations(Release)) == 1
        assert [world.account(number).total for number in (1, 2)] == before

    simulate(play)


def test_refunds_of_early_leavers_are_gathered_and_no_more_than_their_payer_has_earned() -> None:
    async def play(world: World) -> None:
        only = world.members[1]
        assert only.backend is not None
        only.backend.script.first_delay = 10.0
        for _ in range(FIRST_REFUNDS + 2):
            with trio.move_on_after(2.0):
                await ask(world.gateway)
        await trio.sleep(REFUND_GATHER_S / 2)
        assert world.captured == [] and len(world.open_holds()) == FIRST_REFUNDS + 2
        await eventually(lambda: len(world.open_holds()) == 2, REFUND_GATHER_S)
        assert len(world.operations(Capture)) == 1
        assert [item.delivery.amount for item in world.captured] == [0] * FIRST_REFUNDS
        # A payment earns one more.
        only.backend.script.first_delay = 0.1
        assert (await ask(world.gateway)).status == 200
        await eventually(lambda: len(world.captured) == FIRST_REFUNDS + 1)
        only.backend.script.first_delay = 10.0
        for _ in range(2):
            with trio.move_on_after(2.0):
                await ask(world.gateway)
        await world.settle(700)
        assert [item.delivery.amount for item in world.captured].count(0) == FIRST_REFUNDS + 1
        assert len(world.operations(Release)) == 3

    simulate(play, Options(executors=1))


def test_an_executor_that_restarts_refunds_what_it_was_paid_for() -> None:
    async def play(world: World) -> None:
        first = world.drawn()[0]
        assert first.backend is not None
        first.backend.script.tokens = 1000
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, world.gateway)
            await trio.sleep(3)
            await world.kill(first.number)
            nursery.cancel_scope.cancel()
        await world.start(first.number)
        await world.settle(60)
        assert [item.delivery.amount for item in world.captured] == [0]
        assert world.operations(Release) == []

    simulate(play)


def test_a_payer_that_restarts_takes_back_what_was_not_captured() -> None:
    async def play(world: World) -> None:
        first = world.drawn(1)[0]
        hold = make_short_hold(world, 1)
        await world.kill(first.number)
        await world.gateway.engine.submit(sign_operation(world.members[1].key, world.genesis.chain_id, hold))
        await eventually(lambda: world.account(1).held)
        await world.kill(1)
        await world.start(1)
        await eventually(lambda: world.account(1).held == 0, SHORT_HOLD_S + 100)
        assert len(world.operations(Release)) == 1

    simulate(play, Options(gateways=(0, 1)))


def test_a_payer_that_restarts_knows_what_it_received() -> None:
    async def play(world: World) -> None:
        first = world.drawn(1)[0]
        assert first.backend is not None
        first.backend.script.tokens = 200
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, world.members[1].node, make_request(max_tokens=1000))
            await trio.sleep(5)
            await world.kill(1)
            nursery.cancel_scope.cancel()
        await world.start(1)
        await world.settle(120)
        assert world.operations(Dispute) == [] and world.account(first.number).available > 1_000 * CREDIT

    simulate(play, Options(gateways=(0, 1), parameters={"capture_grace_ms": 5_000}))


def test_what_may_be_captured_is_forgotten_once_it_is_settled() -> None:
    async def play(world: World) -> None:
        get_script(world.drawn()[0]).tokens = 100  # 5 s
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, world.gateway)
            await trio.sleep(3)
            ((key, _),) = world.members[0].store.items(MAX_CAPTURE_PREFIX)
            assert world.gateway.engine.state.hold(key[len(MAX_CAPTURE_PREFIX) :]) is not None
        await world.settle()
        await eventually(lambda: not list(world.members[0].store.items(MAX_CAPTURE_PREFIX)), 5)

    simulate(play)


def test_what_was_settled_while_its_payer_was_away_is_forgotten_at_its_deadline() -> None:
    async def play(world: World) -> None:
        first, store = world.drawn(1)[0], world.members[1].store
        get_script(first).tokens = 200
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, world.members[1].node, make_request(max_tokens=1000))
            await trio.sleep(5)
            await world.kill(1)
            nursery.cancel_scope.cancel()
        assert list(store.items(MAX_CAPTURE_PREFIX))
        await eventually(lambda: not world.open_holds(), 120)
        await world.start(1)
        await trio.sleep(30)
        assert list(store.items(MAX_CAPTURE_PREFIX))
        await eventually(lambda: not list(store.items(MAX_CAPTURE_PREFIX)), SHORT_HOLD_S + 100)

    options = Options(gateways=(0, 1), parameters={"capture_grace_ms": 5_000})
    options.originator = OriginatorSettings(hold_time_ms=1_000 * SHORT_HOLD_S, max_hold_time_ms=1_000 * SHORT_HOLD_S)
    options.executor = ExecutorSettings(min_hold_time_s=SHORT_HOLD_S / 2)
    simulate(play, options)


def test_one_bad_delivery_does_not_spoil_a_capture_of_many() -> None:
    async def play(world: World) -> None:
        node, key = world.members[1].node, world.members[1].key
        holds = [make_hold(world, 0, b"x", bytes(16), seq=seq) for seq in range(40)]
        holds = [hold for hold in holds if hold.payee == key.public_key]
        assert len(holds) > 5
        for index, hold in enumerate(holds):
            signed = sign_operation(world.members[0].key, world.genesis.chain_id, hold)
            hold_id = signed.id
            node.payments.payee._served.add((signed.signer, hold.seq, hold.attempt))
            # The first asks for more than its usage is worth.
            amount = 2_000 if index == 0 else 1_000
            delivery = Delivery(hold_id, amount, bytes(32), Usage(0, 0), "stop")
            node.payments.payee.collect(
                signed, delivery, node.payments.payer.sign_receipt(delivery) if index == 1 else None
            )
            await world.gateway.engine.submit(signed)
        # Neither the first nor the second, whose receipt is not the payer's, is ever captured; the others are.
        await eventually(lambda: len(world.captured) >= len(holds) - 2, 30)
        amounts = {item.delivery.amount for item in world.captured}
        assert amounts == {1_000} and len(world.captured) == len(holds) - 2

    simulate(play)


def test_captures_without_a_receipt_wait_for_the_bond_that_those_before_them_lock() -> None:
    """And do not keep one with a receipt waiting."""

    async def play(world: World) -> None:
        payee = world.members[1].node.payments.payee
        holds = [make_hold(world, 0, b"x", bytes(16), seq=seq) for seq in range(4)]
        for hold in holds:
            signed = sign_hold_by_hand(world.members[0], hold)
            hold_id = signed.id
            payee._served.add((signed.signer, hold.seq, hold.attempt))
            delivery = Delivery(hold_id, 1_000, bytes(32), Usage(0, 0), "stop")
            payee.collect(
                signed, delivery, world.gateway.payments.payer.sign_receipt(delivery) if hold.seq == 3 else None
            )
            await world.gateway.engine.submit(signed)
        await eventually(lambda: len(world.captured) == 2, 30)
        assert world.account(1).locked == 1_000
        await eventually(lambda: len(world.captured) == 4, 60)
        await eventually(lambda: not world.open_holds(), 30)
        # In the first capture or in one of its own, the one with a receipt is not later than the first without.
        order = [item.receipt is None for capture in world.operations(Capture) for item in capture.items]
        assert sorted(order[:2]) == [False, True] and order[2:] == [True, True] and world.operations(Dispute) == []

    simulate(play, Options(executors=1, bonded={1: 1_999}, parameters={"capture_grace_ms": 5_000}))


def test_a_capture_that_was_lost_is_submitted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    submit = Submitter.submit
    lost: list[Operation] = []

    async def lose_first(self: Submitter, operation: Operation) -> bool:
        if isinstance(operation, Capture) and not lost:
            lost.append(operation)
            return True
        return await submit(self, operation)

    monkeypatch.setattr(Submitter, "submit", lose_first)

    async def play(world: World) -> None:
        assert (await ask(world.gateway)).status == 200
        await world.settle()
        (item,) = world.captured
        assert lost == [Capture((item,))]

    simulate(play)


def test_a_hold_whose_number_another_hold_has_used_counts_against_its_payer_and_ends_its_credit() -> None:
    async def play(world: World) -> None:
        payee, payer = world.members[1].node.payments.payee, world.members[0].public_key
        hold = make_hold(world, 0, b"x", bytes(16))
        rival = replace(hold, amount=1_000, request_digest=bytes(32))
        signed = sign_hold_by_hand(world.members[0], hold)
        payee.history.note_payment(payer, CREDIT)
        delivery = Delivery(signed.id, 1_000, bytes(32), Usage(0, 0), "stop")
        payee.collect(signed, delivery, world.gateway.payments.payer.sign_receipt(delivery))
        await world.gateway.engine.submit(sign_hold_by_hand(world.members[0], rival))
        await eventually(lambda: payee.history.get_suspension(payer, trio.current_time()) > 0, 10)
        assert payee.history.get_paid(payer) == 0 and payee.get_unpaid(payer) == 0
        (open_hold,) = world.open_holds()
        assert open_hold.amount == 1_000 and not world.captured

    simulate(play, Options(executors=1))


def test_an_offer_that_is_made_again_after_its_payer_left_is_not_refunded() -> None:
    async def play(world: World) -> None:
        payee, payer = world.members[1].node.payments.payee, world.members[0].public_key
        holds = [make_hold(world, 0, b"x", bytes(16), seq=seq) for seq in range(2)]
        signed = [sign_hold_by_hand(world.members[0], hold) for hold in holds]
        for each in signed:
            payee.note_left(each.id)
        with payee.serving(payer, holds[0]):
            for each in signed:
                await world.gateway.engine.submit(each)
            await eventually(lambda: len(world.open_holds()) == 2, 10)
            await eventually(lambda: len(world.open_holds()) == 1, 120)
            assert [item.delivery.hold for item in world.captured] == [signed[1].id]
            delivery = Delivery(signed[0].id, 1_000, bytes(32), Usage(0, 0), "stop")
            payee.collect(signed[0], delivery, world.gateway.payments.payer.sign_receipt(delivery))
        await eventually(lambda: not world.open_holds(), 10)
        assert world.captured[-1].delivery == delivery

    simulate(play, Options(executors=1))
